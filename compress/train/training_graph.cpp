#include "compress/train/training_graph.h"

#include <algorithm>

#include "compress/error.h"
#include "compress/runtime/inline.h"
#include "compress/train/autograd.h"
#include "compress/train/gradient.h"
#include "compress/train/recompute.h"

namespace compress::train {
namespace {

constexpr const char* kBatch = "train/batch";

// What the runtime would do to its own copy: functions become nodes, so that their nodes have
// derivatives.
Model prepared(const Model& source, int64_t batch) {
  Model model = source;
  runtime::inline_functions(model);
  runtime::expand_operators(model, operators_by_body());
  free_batch(model, batch);
  return model;
}

bool has_half_weights(const Graph& graph) {
  for (ValueId id = 0; id < graph.value_slots(); ++id) {
    const Value& value = graph.value(id);
    if (value.alive && value.is_constant() && value.constant.dtype() == DType::float16 &&
        value.constant.shape().rank() > 1) {
      return true;
    }
  }
  return false;
}

void set_outputs(Graph& graph, std::span<const ValueId> wanted) {
  // Outputs cannot be removed, only set; what is not wanted any more repeats the first.
  for (size_t i = 0; i < graph.outputs().size(); ++i) {
    graph.set_output(i, wanted[std::min(i, wanted.size() - 1)]);
  }
  for (size_t i = graph.outputs().size(); i < wanted.size(); ++i) graph.add_output(wanted[i]);
}

}  // namespace

void free_batch(Model& model, int64_t batch) {
  Graph& graph = model.graph;
  const int64_t symbol = graph.symbol(kBatch);
  for (const ValueId id : graph.inputs()) {
    const Value& value = graph.value(id);
    if (value.is_constant() || !value.type.has_shape || value.type.shape.rank() == 0) continue;
    TypeInfo type = value.type;
    if (type.shape[0] >= 0 && type.shape[0] != 1 && type.shape[0] != batch) {
      fail(ErrorCode::usage, "input '{}' takes batches of {}; give --batch {}", value.name,
           type.shape[0], type.shape[0]);
    }
    if (type.shape[0] == batch && batch > 1) continue;
    type.shape[0] = symbol;
    graph.set_type(id, type);
  }
  for (ValueId id = 0; id < graph.value_slots(); ++id) {
    const Value& value = graph.value(id);
    if (value.alive && value.producer != kNoNode) graph.set_type(id, {value.type.dtype, false, {}});
  }
  infer_types(model);
  if (batch == 1) return;
  for (const ValueId id : graph.outputs()) {
    const TypeInfo& type = graph.value(id).type;
    if (type.has_shape && type.shape.rank() > 0 && type.shape[0] == 1) {
      fail(ErrorCode::usage,
           "output '{}' has one row whatever the batch: the model was made for single samples; "
           "give --batch 1 and --accumulate {}",
           graph.value(id).name, batch);
    }
  }
}

TrainingGraph make_training_graph(const Model& student, const Model* teacher, bool labelled,
                                  const TrainOptions& options) {
  TrainingGraph out{prepared(student, options.batch), {}, {}, {}, ""};
  Graph& graph = out.model.graph;
  std::vector<Parameter> parameters = find_parameters(graph, {options.learn_scales});
  if (parameters.empty()) {
    fail(ErrorCode::unsupported, "the model has no float32 weights to train{}",
         has_half_weights(graph) ? "; those in float16 stay as they are" : "");
  }
  bind_parameters(graph, parameters);
  if (options.batch_statistics) out.states = train_batch_norm(graph);
  if (options.dropout) out.step = activate_dropout(graph, options.seed);
  const Loss loss = append_loss(out.model, teacher, labelled, options.loss);
  out.inputs = loss.inputs;

  std::vector<ValueId> values;
  for (const Parameter& parameter : parameters) values.push_back(parameter.value);
  const NodeId first_backward = graph.node_slots();
  const std::vector<ValueId> gradients = append_backward(out.model, loss.value, values);
  std::vector<ValueId> outputs = {loss.value};
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (gradients[i] == kNoValue) {
      // The loss does not depend on it: it stays the constant that it was.
      const ValueId constant = graph.add_constant(parameters[i].name, parameters[i].initial);
      graph.replace_uses(parameters[i].value, constant, false);
      graph.remove_input(parameters[i].value);
      continue;
    }
    outputs.push_back(gradients[i]);
    out.parameters.push_back(std::move(parameters[i]));
  }
  for (const State& state : out.states) outputs.push_back(state.output);
  set_outputs(graph, outputs);
  if (options.recompute) recompute_activations(graph, first_backward);
  return out;
}

EvaluationGraph make_evaluation_graph(const Model& student, const Model* teacher, bool labelled,
                                      const TrainOptions& options, const TrainingGraph& training) {
  EvaluationGraph out{prepared(student, options.batch), {}};
  Graph& graph = out.model.graph;
  // The same constants under the same names of inputs.
  const auto bind = [&](const std::string& constant, ValueId like) {
    const ValueId id = graph.find_value(constant);
    const std::string& name = training.model.graph.value(like).name;
    const ValueId input = graph.add_input(name, training.model.graph.value(like).type);
    graph.replace_uses(id, input);
  };
  for (const Parameter& parameter : training.parameters) bind(parameter.name, parameter.value);
  for (const State& state : training.states) bind(state.name, state.input);
  const Loss loss = append_loss(out.model, teacher, labelled, options.loss);
  out.inputs = loss.inputs;
  const ValueId outputs[] = {loss.value, loss.logits};
  set_outputs(graph, outputs);
  return out;
}

Model cut_teacher(const Model& teacher, const LossInputs& inputs, int64_t batch) {
  Model model = teacher;
  free_batch(model, batch);
  std::vector<ValueId> wanted;
  for (const std::string& name : inputs.sources) wanted.push_back(model.graph.find_value(name));
  set_outputs(model.graph, wanted);
  return model;
}

}  // namespace compress::train
