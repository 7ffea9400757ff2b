// The graphs that a trainer runs: forward and backward, and the plain forward form that measures.
#pragma once

#include <string>
#include <vector>

#include "compress/graph/model.h"
#include "compress/train/loss.h"
#include "compress/train/parameters.h"
#include "compress/train/trainer.h"

namespace compress::train {

// Outputs: the loss, a gradient for each parameter, the batch's own value of each state.
struct TrainingGraph {
  Model model;
  std::vector<Parameter> parameters;  // those that the loss depends on
  std::vector<State> states;
  LossInputs inputs;
  std::string step;  // input of dropout; "" where nothing draws
};

TrainingGraph make_training_graph(const Model& student, const Model* teacher, bool labelled,
                                  const TrainOptions& options);

// Outputs: the loss and the logits. Parameters and states are inputs of the same names as in the
// training graph.
struct EvaluationGraph {
  Model model;
  LossInputs inputs;
};

EvaluationGraph make_evaluation_graph(const Model& student, const Model* teacher, bool labelled,
                                      const TrainOptions& options, const TrainingGraph& training);

// The teacher, cut to the values that a loss reads, as its outputs in that order.
Model cut_teacher(const Model& teacher, const LossInputs& inputs, int64_t batch);

// Inputs whose first dimension is 1 or unknown take batches; fails (usage) where the model was made
// for single samples.
void free_batch(Model& model, int64_t batch);

}  // namespace compress::train
