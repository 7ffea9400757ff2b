// The passes of "quantize" and what its three modes share.
#pragma once

#include <array>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "compress/graph/label.h"
#include "compress/quant/qparams.h"
#include "passes/pass.h"
#include "passes/select.h"

namespace compress {

// --- Passes --------------------------------------------------------------------------------------

// float32 in place of half precision, where the mode wants float32 around its integers.
PassResult widen_half(Model& model, PassContext& context);
// Lifts the opset where the chosen form of quantization needs a newer one.
PassResult raise_opset(Model& model, PassContext& context);
PassResult quantize_model(Model& model, PassContext& context);
// --format qoperator: integer operators where Q/DQ stand around float ones.
PassResult fuse_qoperators(Model& model, PassContext& context);
PassResult convert_half(Model& model, PassContext& context);

StatisticsRequests quantize_wants(const Model& model, const Options& options);

// --- Mode ----------------------------------------------------------------------------------------

enum class QuantMode { none, static_, dynamic, weight_only, half };

struct ModeChoice {
  QuantMode mode = QuantMode::none;
  std::string why;  // for `none`: why nothing is to be quantized
};

// --mode, or without it what suits the model and the data at hand.
ModeChoice choose_mode(const Model& model, const Options& options, bool has_data);
std::string_view mode_name(QuantMode mode);
// Weights of products, convolutions or embeddings in float16 or bfloat16.
bool has_half_weights(const Model& model);
// More weight in MatMul than in Conv, and products of two activations or attention.
bool is_transformer(const Model& model);

// --granularity and its default for the mode.
struct Granularity {
  enum Kind { tensor, channel, block } kind = channel;
  int64_t block_size = 0;
};
Granularity granularity_of(const Options& options, QuantMode mode);

// --weights and its default for the mode: the type that holds them, and how many of its bits are
// used (3 of 4, else all).
DType weight_dtype(const Options& options, QuantMode mode);
int weight_bits(const Options& options, QuantMode mode);

// --- Running one mode ----------------------------------------------------------------------------

class Overrides;

// What static quantization did, by the ids of the model before it.
struct StaticTrace {
  struct Step {
    NodeId node = kNoNode;
    bool has_weights = false;     // integers of its own: Conv, Gemm, MatMul, tables
    std::vector<ValueId> values;  // that have to be integers for it
  };
  std::vector<Step> steps;                     // in execution order, tables last
  std::map<ValueId, ValueId> root;             // values with the parameters of another
  std::map<ValueId, QuantParams> activations;  // of roots
};

struct QuantJob {
  Model& model;
  const Options& options;
  const StatisticsSet* statistics;
  Selection selection;
  PassResult result = {};
  int64_t quantized = 0;            // nodes
  std::vector<NodeId> layers = {};  // with integer weights, of static quantization
  const std::function<CalibrationSamples()>* samples = nullptr;
  const Overrides* overrides = nullptr;  // of single nodes, in static quantization
  // Tables stored in 8 bits: the float constant, then its integers, scale and zero point.
  std::map<ValueId, std::array<ValueId, 3>> tables = {};
  StaticTrace trace = {};
  // Of a selection, what depends on the graph (node names of --override); empty: nothing.
  std::function<void(Selection&, const Graph&)> restrict = {};
  bool in_body = false;     // samples show no values there
  bool sizes_only = false;  // PassContext's

  void skip(NodeId node, std::string reason) {
    result.skipped.push_back({label(model.graph, model.graph.node(node)), std::move(reason)});
  }
  void skip(const std::string& node, std::string reason) {
    result.skipped.push_back({node, std::move(reason)});
  }
};

// The samples themselves; fails (usage) where there are none, naming the option that wants them.
CalibrationSamples calibration_samples(const QuantJob& job, std::string_view what);

void quantize_static(QuantJob& job);
void quantize_dynamic(QuantJob& job);
void quantize_weights(QuantJob& job);
// Weights in float16 or bfloat16, cast to float32 in front of their readers: half the bytes, and
// the arithmetic stays what it was.
void store_half(QuantJob& job);

// Bytes that a NodeProto with its names takes in the file, about; what a rewrite adds counts too.
inline constexpr int64_t kNodeProtoBytes = 120;

}  // namespace compress
