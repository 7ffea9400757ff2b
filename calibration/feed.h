// Fits what a data set holds to what a model takes: names, shapes, types, preprocessing.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "calibration/spec.h"
#include "compress/graph/model.h"

namespace compress {

struct ModelInput {
  std::string name;
  TypeInfo type;

  // Samples that the model takes at once where its axis 0 is fixed; 1 where it is open.
  int64_t fixed_batch() const {
    return type.has_shape && type.shape.rank() > 0 && type.shape[0] > 1 ? type.shape[0] : 1;
  }
};

// Inputs that a run must feed, in the model's order.
std::vector<ModelInput> model_inputs(const Model& model);
// "'input' float32[?,3,224,224]": for messages.
std::string describe(const ModelInput& input);
std::string describe(const std::vector<ModelInput>& inputs);
// The input called `name`, or the only one where it is "". Fails (usage) with the names.
const ModelInput& pick_input(const std::vector<ModelInput>& inputs, const std::string& name);

// A name that a program would give an array, not a path that a hostile archive smuggles in.
bool is_plain(std::string_view name);

// Whether values of one type are meant where a model takes another: bytes and booleans are pixels
// and flags, other integers in place of real numbers (or the reverse) are more likely a mistake.
bool converts_by_itself(DType from, DType to);

// Turns one sample's array into a feed of an input.
class Fitter {
 public:
  // `preprocessing` null: names, types and shapes only. `what` names the array in messages.
  Fitter(ModelInput input, const Preprocessing* preprocessing, std::string what);

  const ModelInput& input() const { return input_; }
  // Fails (invalid_model) where samples of this type and shape cannot be fed: early, and without
  // data.
  void check(DType dtype, const Shape& shape) const;
  // REQUIRES that check() passed. Shape [rows, ...] as in the source.
  Tensor fit(const Tensor& sample) const;

 private:
  Shape fitted_shape(const Shape& shape) const;
  Tensor normalized(const Tensor& sample) const;

  ModelInput input_;
  bool computes_ = false;
  bool explicit_dtype_ = false;
  bool bgr_ = false;
  bool images_ = false;     // rank 4 with a layout
  int source_channel_ = 1;  // axis of the channels in the source
  bool to_nchw_ = false, to_nhwc_ = false;
  std::vector<double> mean_, std_;
  double scale_ = 1;
  std::string what_;
};

// True where the model takes images as [n, h, w, c]; by the spec, or by where 1 or 3 channels are.
bool takes_nhwc(const ModelInput& input, const Preprocessing& preprocessing);

}  // namespace compress
