#include "compress/train/loss.h"

#include <array>
#include <charconv>

#include "compress/core/nearest.h"
#include "compress/error.h"
#include "compress/ops/support.h"
#include "compress/train/augment.h"

namespace compress::train {
namespace {

constexpr std::array<std::string_view, 6> kKinds = {"cross-entropy", "kl",   "mse",
                                                    "cosine",        "hint", "attention"};

double number_of(std::string_view key, std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value >= 0)) {
    fail(ErrorCode::usage, "--loss: {} is '{}'; a number of at least 0 is needed", key, text);
  }
  return value;
}

void set_parameter(LossTerm& term, std::string_view key, std::string_view value) {
  const bool hints = term.kind == "hint" || term.kind == "attention";
  if (key == "weight") {
    term.weight = number_of(key, value);
  } else if (key == "T" && term.kind == "kl") {
    term.temperature = number_of(key, value);
    if (term.temperature == 0) fail(ErrorCode::usage, "--loss: T must be above 0");
  } else if (key == "alpha" && term.kind == "kl") {
    term.alpha = number_of(key, value);
    term.alpha_given = true;
    if (term.alpha > 1) fail(ErrorCode::usage, "--loss: alpha must be in [0, 1]");
  } else if (hints && term.student.empty()) {
    term.student = key;
    term.teacher = value;
  } else {
    fail(ErrorCode::usage, "--loss: {} has no parameter '{}'", term.kind, key);
  }
}

LossTerm parse_term(std::string_view text) {
  LossTerm term;
  const size_t colon = text.find(':');
  term.kind = text.substr(0, colon);
  bool known = false;
  for (const std::string_view kind : kKinds) known = known || kind == term.kind;
  if (!known) {
    fail(ErrorCode::usage, "--loss: unknown loss '{}'{}", term.kind, suggestion(term.kind, kKinds));
  }
  std::string_view rest = colon == std::string_view::npos ? "" : text.substr(colon + 1);
  while (!rest.empty()) {
    const size_t comma = rest.find(',');
    const std::string_view part = rest.substr(0, comma);
    const size_t equal = part.find('=');
    if (equal == std::string_view::npos) {
      fail(ErrorCode::usage, "--loss: '{}' is no NAME=VALUE", part);
    }
    set_parameter(term, part.substr(0, equal), part.substr(equal + 1));
    rest = comma == std::string_view::npos ? "" : rest.substr(comma + 1);
  }
  const bool hints = term.kind == "hint" || term.kind == "attention";
  if (hints && term.student.empty()) {
    fail(ErrorCode::usage, "--loss: {} needs the values to compare, STUDENT=TEACHER", term.kind);
  }
  return term;
}

// Appends nodes of opset 18 with inferred types.
class Builder {
 public:
  explicit Builder(Model& model) : graph_(model.graph), inference_(model.graph, model) {
    for (const NodeId id : std::vector<NodeId>(graph_.order())) inference_.visit(id);
  }

  Graph& graph() { return graph_; }

  ValueId op(const char* type, std::vector<ValueId> inputs,
             std::vector<Attribute> attributes = {}) {
    NodeSpec spec;
    spec.op_type = type;
    spec.inputs = std::move(inputs);
    spec.outputs = {std::string("loss/") + type};
    spec.attributes = std::move(attributes);
    spec.attributes.push_back({kOpsetAttribute, int64_t{18}, ""});
    const NodeId id = graph_.add(std::move(spec));
    inference_.visit(id);
    return graph_.node(id).outputs[0];
  }
  ValueId scalar(double value) {
    return graph_.add_constant("loss/scalar", Tensor::scalar(static_cast<float>(value)));
  }
  ValueId axis(int64_t value) {
    return graph_.add_constant("loss/axis", Tensor::from<int64_t>({1}, {value}));
  }
  ValueId scaled(ValueId id, double factor) {
    return factor == 1 ? id : op("Mul", {id, scalar(factor)});
  }
  ValueId mean(ValueId id) { return op("ReduceMean", {id}, {{"keepdims", int64_t{0}, ""}}); }
  ValueId row_sum(ValueId id) { return op("ReduceSum", {id, axis(-1)}); }
  int rank(ValueId id) const {
    const TypeInfo& type = graph_.value(id).type;
    return type.has_shape ? type.shape.rank() : -1;
  }
  // [N, C, 1, 1] as [N, C].
  ValueId rows(ValueId id) {
    const TypeInfo& type = graph_.value(id).type;
    bool flat = type.has_shape && type.shape.rank() > 2;
    for (int i = 2; flat && i < type.shape.rank(); ++i) flat = type.shape[i] == 1;
    return flat ? op("Flatten", {id}) : id;
  }
  // Everything of a sample side by side.
  ValueId samples(ValueId id) { return rank(id) == 2 ? id : op("Flatten", {id}); }

 private:
  Graph& graph_;
  TypeInference inference_;
};

// (1 - e) (-log p[label]) - e mean(log p)
ValueId cross_entropy(Builder& b, ValueId logits, ValueId label, double smoothing) {
  const ValueId log_p = b.op("LogSoftmax", {logits}, {{"axis", int64_t{-1}, ""}});
  const ValueId at = b.op("Unsqueeze", {label, b.axis(-1)});
  const ValueId picked = b.op("GatherElements", {log_p, at}, {{"axis", int64_t{-1}, ""}});
  const ValueId loss = b.scaled(b.mean(picked), -(1 - smoothing));
  if (smoothing == 0) return loss;
  return b.op("Add", {loss, b.scaled(b.mean(log_p), -smoothing)});
}

// T^2 KL(teacher || student), the mean over rows.
ValueId divergence(Builder& b, ValueId student, ValueId teacher, double temperature) {
  const std::vector<Attribute> last = {{"axis", int64_t{-1}, ""}};
  const ValueId log_s = b.op("LogSoftmax", {b.scaled(student, 1 / temperature)}, last);
  const ValueId log_t = b.op("LogSoftmax", {b.scaled(teacher, 1 / temperature)}, last);
  const ValueId gap = b.op("Sub", {log_t, log_s});
  const ValueId rows = b.row_sum(b.op("Mul", {b.op("Exp", {log_t}), gap}));
  return b.scaled(b.mean(rows), temperature * temperature);
}

ValueId squared_error(Builder& b, ValueId student, ValueId teacher) {
  const ValueId gap = b.op("Sub", {student, teacher});
  return b.mean(b.op("Mul", {gap, gap}));
}

// x over its length, a sample a row.
ValueId unit(Builder& b, ValueId x) {
  const ValueId square = b.row_sum(b.op("Mul", {x, x}));
  return b.op("Div", {x, b.op("Sqrt", {b.op("Add", {square, b.scalar(1e-12)})})});
}

ValueId cosine_distance(Builder& b, ValueId student, ValueId teacher) {
  const ValueId product = b.op("Mul", {unit(b, b.samples(student)), unit(b, b.samples(teacher))});
  return b.op("Sub", {b.scalar(1), b.mean(b.row_sum(product))});
}

// Zagoruyko and Komodakis 2017: where in the plane the squares over the channels are.
ValueId attention_map(Builder& b, ValueId x) {
  const ValueId energy = b.op("ReduceMean", {b.op("Mul", {x, x}), b.axis(1)});
  return unit(b, b.samples(energy));
}

class LossBuilder {
 public:
  LossBuilder(Model& student, const Model* teacher, bool labelled, const LossOptions& options)
      : student_(student), teacher_(teacher), labelled_(labelled), options_(options), b_(student) {}

  Loss build() {
    const std::string output = output_name(student_.graph, options_.student_output);
    check_float(output);
    loss_.logits = b_.rows(logits_of(student_.graph, output));
    for (const LossTerm& term : options_.terms) {
      const ValueId value = b_.scaled(term_of(term, output), term.weight);
      loss_.value = loss_.value == kNoValue ? value : b_.op("Add", {loss_.value, value});
    }
    return std::move(loss_);
  }

 private:
  static std::string output_name(const Graph& graph, const std::string& wanted) {
    std::vector<std::string_view> names;
    for (const ValueId id : graph.outputs()) {
      if (wanted.empty() || graph.value(id).name == wanted) return graph.value(id).name;
      names.push_back(graph.value(id).name);
    }
    fail(ErrorCode::usage, "the model has no output '{}'{}", wanted, suggestion(wanted, names));
  }

  void check_float(const std::string& output) const {
    const DType dtype = student_.graph.value(student_.graph.find_value(output)).type.dtype;
    if (dtype == DType::undefined || dtype == DType::float32 || dtype == DType::float64) return;
    fail(ErrorCode::usage,
         "output '{}' is {}: no loss compares that; name another: --student-output", output,
         info(dtype).name);
  }

  ValueId label() {
    if (!labelled_) {
      fail(ErrorCode::usage,
           "cross-entropy needs labels, and the data has none; give --labels, or --loss kl "
           "with a --teacher");
    }
    if (label_ != kNoValue) return label_;
    TypeInfo type = b_.graph().value(loss_.logits).type;
    type.dtype = DType::int64;
    if (type.has_shape) {
      type.shape = Shape(type.shape.dims().first(static_cast<size_t>(type.shape.rank()) - 1));
    }
    loss_.inputs.label = b_.graph().unique_value_name("loss/label");
    return label_ = b_.graph().add_input(loss_.inputs.label, type);
  }

  // The teacher's value of this name as an input of the student's graph; a value is fed once.
  ValueId from_teacher(const std::string& name, const TypeInfo& like) {
    for (size_t i = 0; i < loss_.inputs.sources.size(); ++i) {
      if (loss_.inputs.sources[i] == name) {
        return b_.graph().find_value(loss_.inputs.teacher[i]);
      }
    }
    if (teacher_ == nullptr) {
      fail(ErrorCode::usage, "this loss compares with a teacher; give --teacher");
    }
    const ValueId source = teacher_->graph.find_value(name);
    if (source == kNoValue) fail(ErrorCode::usage, "the teacher has no value '{}'", name);
    check_fit(name, teacher_->graph.value(source).type, like);
    loss_.inputs.sources.push_back(name);
    loss_.inputs.teacher.push_back(b_.graph().unique_value_name("loss/teacher"));
    TypeInfo type = like;
    type.dtype = DType::float32;
    return b_.graph().add_input(loss_.inputs.teacher.back(), type);
  }

  static void check_fit(const std::string& name, const TypeInfo& teacher, const TypeInfo& student) {
    if (!teacher.has_shape || !student.has_shape) return;
    bool fits = teacher.shape.rank() == student.shape.rank();
    for (int i = 0; fits && i < teacher.shape.rank(); ++i) {
      fits = teacher.shape[i] < 0 || student.shape[i] < 0 || teacher.shape[i] == student.shape[i];
    }
    if (!fits) {
      fail(ErrorCode::usage, "the teacher's '{}' has shape {}, the student's {}", name,
           teacher.shape.to_string(), student.shape.to_string());
    }
  }

  // The teacher's output, as logits.
  ValueId teacher_output(ValueId like, bool logits) {
    if (teacher_ == nullptr) {
      fail(ErrorCode::usage, "this loss compares with a teacher; give --teacher");
    }
    const Graph& graph = teacher_->graph;
    std::string wanted = options_.teacher_output;
    const ValueId same = graph.find_value(options_.student_output);
    if (wanted.empty() && same != kNoValue && graph.is_output(same)) {
      wanted = options_.student_output;
    }
    const std::string name = output_name(graph, wanted);
    const ValueId id = logits ? logits_of(graph, name) : graph.find_value(name);
    return from_teacher(graph.value(id).name, b_.graph().value(like).type);
  }

  ValueId term_of(const LossTerm& term, const std::string& output) {
    if (term.kind == "cross-entropy") {
      return cross_entropy(b_, loss_.logits, label(), options_.label_smoothing);
    }
    if (term.kind == "kl") return distillation(term, output);
    if (term.kind == "hint" || term.kind == "attention") {
      const ValueId mine = student_.graph.find_value(term.student);
      if (mine == kNoValue) fail(ErrorCode::usage, "the student has no value '{}'", term.student);
      const ValueId theirs = from_teacher(term.teacher, student_.graph.value(mine).type);
      if (term.kind == "hint") return squared_error(b_, mine, theirs);
      return squared_error(b_, attention_map(b_, mine), attention_map(b_, theirs));
    }
    const ValueId mine = student_.graph.find_value(output);
    const ValueId theirs = teacher_output(mine, false);
    return term.kind == "mse" ? squared_error(b_, mine, theirs) : cosine_distance(b_, mine, theirs);
  }

  // alpha T^2 KL(teacher, student) + (1 - alpha) cross-entropy.
  ValueId distillation(const LossTerm& term, const std::string& output) {
    const ValueId mine = logits_of(student_.graph, output);
    const ValueId theirs = b_.rows(teacher_output(mine, true));
    const ValueId soft = divergence(b_, loss_.logits, theirs, term.temperature);
    const double alpha = term.alpha_given || !labelled_ ? term.alpha : 0.5;
    if (alpha == 1) return soft;
    const ValueId hard = cross_entropy(b_, loss_.logits, label(), options_.label_smoothing);
    return b_.op("Add", {b_.scaled(soft, alpha), b_.scaled(hard, 1 - alpha)});
  }

  Model& student_;
  const Model* teacher_;
  bool labelled_;
  const LossOptions& options_;
  Builder b_;
  Loss loss_;
  ValueId label_ = kNoValue;
};

}  // namespace

std::vector<LossTerm> parse_loss(std::string_view text) {
  std::vector<LossTerm> terms;
  while (true) {
    const size_t plus = text.find('+');
    terms.push_back(parse_term(text.substr(0, plus)));
    if (plus == std::string_view::npos) return terms;
    text = text.substr(plus + 1);
  }
}

uint64_t loss_key(const LossOptions& options) {
  std::string text = fmt::format("{} {} {}", options.label_smoothing, options.student_output,
                                 options.teacher_output);
  for (const LossTerm& term : options.terms) {
    text += fmt::format("+{} {} {} {} {} {}", term.kind, term.temperature, term.alpha, term.weight,
                        term.student, term.teacher);
  }
  uint64_t key = 0;
  for (const char letter : text) key = mixed_bits(key + static_cast<unsigned char>(letter));
  return key;
}

ValueId logits_of(const Graph& graph, std::string_view output) {
  const ValueId id = graph.find_value(output);
  const NodeId producer = graph.value(id).producer;
  if (producer == kNoNode) return id;
  const Node& node = graph.node(producer);
  return node.is("Softmax") || node.is("LogSoftmax") ? node.inputs[0] : id;
}

Loss append_loss(Model& student, const Model* teacher, bool labelled, const LossOptions& options) {
  return LossBuilder(student, teacher, labelled, options).build();
}

}  // namespace compress::train
