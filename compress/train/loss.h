// Losses, appended to a graph as ordinary nodes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "compress/graph/model.h"

namespace compress::train {

// One term: "cross-entropy", "kl:T=4,alpha=0.5", "mse", "cosine", "hint:STUDENT=TEACHER,weight=1",
// "attention:STUDENT=TEACHER". Hints compare inner values, by name.
struct LossTerm {
  std::string kind;
  double temperature = 4;
  double alpha = 1;  // kl: its part; the rest is cross-entropy with the labels
  bool alpha_given = false;
  double weight = 1;
  std::string student;  // hints: value names; empty: the output
  std::string teacher;
};

// Terms joined by "+". Fails (usage) naming what it does not know, and the nearest that it does.
std::vector<LossTerm> parse_loss(std::string_view text);

struct LossOptions {
  std::vector<LossTerm> terms;
  double label_smoothing = 0;
  std::string student_output;  // empty: the first
  std::string teacher_output;
};

// The same for the same loss.
uint64_t loss_key(const LossOptions& options);

// What a loss reads beside the model's own inputs.
struct LossInputs {
  std::string label;                 // int64; empty: not needed
  std::vector<std::string> teacher;  // inputs of the student's graph ...
  std::vector<std::string> sources;  // ... and the teacher's values that they are fed from
};

struct Loss {
  ValueId value = kNoValue;   // one element
  ValueId logits = kNoValue;  // what labels are compared with: ahead of a closing Softmax
  LossInputs inputs;
};

// Appends the loss of the student. REQUIRES inferred types. `teacher` (null: none) tells the types
// of the values it is compared with. Fails (usage) where a term needs labels or a teacher that are
// not there, or names a value that is not.
Loss append_loss(Model& student, const Model* teacher, bool labelled, const LossOptions& options);

// The value ahead of a closing Softmax or LogSoftmax, else the output itself.
ValueId logits_of(const Graph& graph, std::string_view output);

}  // namespace compress::train
