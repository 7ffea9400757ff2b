#include "passes/recover/channels.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "compress/core/parallel.h"
#include "passes/edit.h"
#include "passes/quantize/quantize.h"
#include "passes/recover/activations.h"
#include "passes/recover/recover_static.h"

namespace compress {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Smallest and largest value of each channel: axis 1 of what has more than two axes, else the last.
struct ChannelRanges {
  std::vector<float> low, high;

  void add(const TensorView& x) {
    const Shape& shape = x.shape;
    const int axis = shape.rank() > 2 ? 1 : shape.rank() - 1;
    const int64_t channels = shape[axis], inner = shape.count(axis + 1, shape.rank());
    const int64_t outer = shape.count(0, axis);
    low.resize(static_cast<size_t>(channels), std::numeric_limits<float>::infinity());
    high.resize(static_cast<size_t>(channels), -std::numeric_limits<float>::infinity());
    const auto* data = x.as<const float>();
    const int64_t grain = std::max<int64_t>(1, 65536 / std::max<int64_t>(1, outer * inner));
    parallel_for(0, channels, grain, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) {
        for (int64_t o = 0; o < outer; ++o) {
          add_run(static_cast<size_t>(c), data + (o * channels + c) * inner, inner);
        }
      }
    });
  }

 private:
  // Eight at a time, which vectorizes.
  void add_run(size_t channel, const float* x, int64_t n) {
    float least[8], most[8];
    std::fill_n(least, 8, low[channel]);
    std::fill_n(most, 8, high[channel]);
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
      for (int64_t k = 0; k < 8; ++k) {
        least[k] = std::min(least[k], x[i + k]);
        most[k] = std::max(most[k], x[i + k]);
      }
    }
    for (; i < n; ++i) least[0] = std::min(least[0], x[i]), most[0] = std::max(most[0], x[i]);
    low[channel] = *std::min_element(least, least + 8);
    high[channel] = *std::max_element(most, most + 8);
  }
};

// The weights and bias of a Conv or Gemm, copied to be changed.
class Layer {
 public:
  // `usable()` is false where they are not float32 constants of this node alone.
  Layer(const Model& model, NodeId id) : id_(id) {
    const Graph& graph = model.graph;
    const Node& node = graph.node(id);
    is_conv_ = node.is("Conv");
    if (!is_conv_ && (!node.is("Gemm") || node.float_or("alpha", 1) != 1 ||
                      node.float_or("beta", 1) != 1 || node.int_or("transA", 0) != 0)) {
      return;
    }
    const Tensor* weight = own_constant(graph, node, 1);
    if (weight == nullptr || weight->shape().rank() < 2 || weight->count() == 0) return;
    rows_first_ = is_conv_ || node.int_or("transB", 0) != 0;
    outputs_ = weight->shape()[rows_first_ ? 0 : 1];
    groups_ = is_conv_ ? std::max<int64_t>(1, node.int_or("group", 1)) : 1;
    taps_ = is_conv_ ? weight->shape().count(2, weight->shape().rank()) : 1;
    group_inputs_ = weight->shape()[rows_first_ ? 1 : 0];
    if (outputs_ % groups_ != 0) return;
    if (operand(node, 2) != kNoValue) {
      const Tensor* bias = own_constant(graph, node, 2);
      if (bias == nullptr || bias->count() != outputs_) return;
      bias_ = bias->to_doubles();
    }
    const std::vector<int64_t> pads = node.ints_or("pads", {});
    pads_ = is_conv_ && (node.string_or("auto_pad", "NOTSET").rfind("SAME", 0) == 0 ||
                         std::any_of(pads.begin(), pads.end(), [](int64_t p) { return p != 0; }));
    weights_ = weight->to_doubles();
    usable_ = true;
  }

  bool usable() const { return usable_; }
  bool is_depthwise() const { return group_inputs_ == 1 && groups_ > 1; }
  bool pads() const { return pads_; }
  int64_t outputs() const { return outputs_; }
  int64_t inputs() const { return group_inputs_ * groups_; }

  // The largest weight that makes output channel c, or reads input channel c.
  double out_size(int64_t c) const {
    double size = 0;
    for (int64_t i = 0; i < group_inputs_ * taps_; ++i) {
      size = std::max(size, std::fabs(weights_[out_index(c, i)]));
    }
    return size;
  }
  double in_size(int64_t c) const {
    double size = 0;
    for_each_reader(c, [&](size_t i, int64_t) { size = std::max(size, std::fabs(weights_[i])); });
    return size;
  }
  void scale_out(int64_t c, double factor) {
    for (int64_t i = 0; i < group_inputs_ * taps_; ++i) weights_[out_index(c, i)] *= factor;
    if (!bias_.empty()) bias_[static_cast<size_t>(c)] *= factor;
  }
  void scale_in(int64_t c, double factor) {
    for_each_reader(c, [&](size_t i, int64_t) { weights_[i] *= factor; });
  }
  void make_constant(int64_t c, double value) {
    for (int64_t i = 0; i < group_inputs_ * taps_; ++i) weights_[out_index(c, i)] = 0;
    if (bias_.empty()) bias_.assign(static_cast<size_t>(outputs_), 0);
    bias_[static_cast<size_t>(c)] = value;
  }
  // Input channel c always is `value`: its share goes into the bias.
  void absorb_input(int64_t c, double value) {
    if (bias_.empty() && value != 0) bias_.assign(static_cast<size_t>(outputs_), 0);
    for_each_reader(c, [&](size_t i, int64_t row) {
      if (value != 0) bias_[static_cast<size_t>(row)] += weights_[i] * value;
      weights_[i] = 0;
    });
  }

  void write(Graph& graph) const {
    const Node& node = graph.node(id_);
    const auto narrowed = [](const std::vector<double>& values, const Shape& shape) {
      Tensor out = Tensor::allocate(DType::float32, shape);
      auto to = out.mutable_as<float>();
      for (size_t i = 0; i < to.size(); ++i) to[i] = static_cast<float>(values[i]);
      return out;
    };
    const Shape shape = graph.value(node.inputs[1]).constant.shape();
    graph.set_constant(node.inputs[1], narrowed(weights_, shape));
    if (bias_.empty()) return;
    if (operand(node, 2) != kNoValue) {
      const Shape bias = graph.value(node.inputs[2]).constant.shape();
      graph.set_constant(node.inputs[2], narrowed(bias_, bias));
    } else {
      const std::string name = node.name + "_bias";
      graph.set_input(id_, 2, graph.add_constant(name, narrowed(bias_, {outputs_})));
    }
  }

 private:
  static const Tensor* own_constant(const Graph& graph, const Node& node, size_t slot) {
    const Tensor* tensor = graph.constant_input(node, slot);
    if (tensor == nullptr || tensor->dtype() != DType::float32) return nullptr;
    const ValueId id = node.inputs[slot];
    return graph.uses(id).size() == 1 && !graph.is_output(id) && !graph.value(id).is_input
               ? tensor
               : nullptr;
  }

  // Weight i of output channel c.
  size_t out_index(int64_t c, int64_t i) const {
    return static_cast<size_t>(rows_first_ ? c * group_inputs_ * taps_ + i : i * outputs_ + c);
  }

  template <class Visit>
  void for_each_reader(int64_t c, Visit&& visit) const {
    const int64_t group = c / group_inputs_, rows = outputs_ / groups_;
    for (int64_t row = group * rows; row < (group + 1) * rows; ++row) {
      for (int64_t tap = 0; tap < taps_; ++tap) {
        visit(out_index(row, c % group_inputs_ * taps_ + tap), row);
      }
    }
  }

  NodeId id_;
  bool usable_ = false, is_conv_ = false, rows_first_ = true, pads_ = false;
  int64_t outputs_ = 0, groups_ = 1, taps_ = 1, group_inputs_ = 0;
  std::vector<double> weights_, bias_;
};

// A layer, the activation behind it, and what reads that.
struct Link {
  NodeId layer = kNoNode;
  ValueId outlet = kNoValue;
  NodeId reader = kNoNode;  // a layer that alone reads the outlet, or reads it through pooling
  double low = -kInfinity, high = kInfinity;  // bounds of the activation; between them act(t x) =
                                              // t act(x) for t > 0
  bool pooled = false;                        // between outlet and reader
};

class Conditioner {
 public:
  Conditioner(Model& model, const CalibrationSamples& samples)
      : model_(model), graph_(model.graph), samples_(samples) {}

  void run(bool equalize, PassResult& result) {
    find_links();
    if (links_.empty()) return;
    measure();
    const int64_t constants = fold_constants();
    int64_t equalized = 0;
    if (equalize) equalized = this->equalize();
    for (const NodeId id : changed_) layers_.at(id).write(graph_);
    result.changed = !changed_.empty();
    if (constants > 0) result.details["constant_channels"] = constants;
    if (equalize) result.details["equalized_pairs"] = equalized;
  }

 private:
  void find_links() {
    for (const NodeId id : graph_.order()) {
      const Node& node = graph_.node(id);
      if (!node.is("Conv") && !node.is("Gemm")) continue;
      Layer layer(model_, id);
      if (layer.usable()) layers_.emplace(id, std::move(layer));
    }
    for (const NodeId id : graph_.order()) {
      if (layers_.count(id) > 0) links_.push_back(link_of(id));
    }
  }

  Link link_of(NodeId id) const {
    Link link{id, graph_.node(id).outputs[0]};
    NodeId next = single_reader(graph_, link.outlet);
    if (next != kNoNode && is_activation(next, link)) {
      link.outlet = graph_.node(next).outputs[0];
      next = single_reader(graph_, link.outlet);
    }
    while (next != kNoNode && keeps_channels(graph_.node(next))) {
      link.pooled = true;
      next = single_reader(graph_, graph_.node(next).outputs[0]);
    }
    const auto row = layers_.find(next);
    if (row == layers_.end() || row->second.inputs() != layers_.at(id).outputs()) return link;
    link.reader = next;
    return link;
  }

  bool is_activation(NodeId id, Link& link) const {
    const Node& node = graph_.node(id);
    if (node.is("Relu")) link.low = 0;
    if (node.is("Relu") || node.is("LeakyRelu")) return true;
    if (!node.is("Clip") || operand(node, 0) != link.outlet) return false;
    if (model_.opset() < 11) {
      link.low = node.float_or("min", std::numeric_limits<float>::lowest());
      link.high = node.float_or("max", std::numeric_limits<float>::max());
      return true;
    }
    for (const size_t slot : {size_t{1}, size_t{2}}) {
      if (operand(node, slot) == kNoValue) continue;
      const Tensor* bound = graph_.constant_input(node, slot);
      if (bound == nullptr || bound->count() != 1) return false;
      (slot == 1 ? link.low : link.high) = bound->to_double();
    }
    return true;
  }

  // Each channel of the result depends on that channel alone, and in proportion.
  static bool keeps_channels(const Node& node) {
    return node.is("GlobalAveragePool") || node.is("AveragePool") || node.is("MaxPool") ||
           (node.is("Flatten") && node.int_or("axis", 1) == 1);
  }

  void measure() {
    std::set<std::string> names;
    for (const Link& link : links_) {
      names.insert(graph_.value(link.outlet).name);
      names.insert(graph_.value(graph_.node(link.layer).outputs[0]).name);
    }
    std::map<std::string, ChannelRanges> seen;
    observe(model_, names, samples_, [&](const std::string& name, const TensorView& content) {
      if (content.dtype == DType::float32) seen[name].add(content);
    });
    for (const Link& link : links_) {
      const ChannelRanges& ranges = seen[graph_.value(link.outlet).name];
      if (static_cast<int64_t>(ranges.low.size()) == layers_.at(link.layer).outputs()) {
        ranges_[link.layer] = ranges;
        inner_ranges_[link.layer] = seen[graph_.value(graph_.node(link.layer).outputs[0]).name];
      }
    }
  }

  // --- Constant channels ------------------------------------------------------------------------

  static constexpr double kStill = 1e-4;  // of the widest channel: a fraction of a step of 8 bits

  int64_t fold_constants() {
    int64_t folded = 0;
    for (const Link& link : links_) {
      const auto row = ranges_.find(link.layer);
      if (row == ranges_.end()) continue;
      const ChannelRanges& ranges = row->second;
      const auto channels = static_cast<int64_t>(ranges.low.size());
      double widest = 0;
      for (size_t c = 0; c < ranges.low.size(); ++c) {
        widest = std::max(widest, double{ranges.high[c]} - double{ranges.low[c]});
      }
      if (!std::isfinite(widest) || widest == 0) continue;
      for (int64_t c = 0; c < channels; ++c) {
        const double low = ranges.low[static_cast<size_t>(c)];
        const double high = ranges.high[static_cast<size_t>(c)];
        if (high - low > kStill * widest || may_awake(link, static_cast<size_t>(c))) continue;
        fold(link, c, (low + high) / 2);
        ++folded;
      }
    }
    return folded;
  }

  // A bound of the activation made the channel still. Other data may move it, unless what is in
  // front of the bound stays away from it by as much as it moves: a rare feature is no constant.
  bool may_awake(const Link& link, size_t c) const {
    const ChannelRanges& inner = inner_ranges_.at(link.layer);
    const double low = inner.low[c], high = inner.high[c], width = high - low;
    return !(width <= kStill * std::max(std::fabs(low), std::fabs(high)) ||
             high + width <= link.low || low - width >= link.high);
  }

  void fold(const Link& link, int64_t c, double value) {
    Layer& layer = layers_.at(link.layer);
    if (layer.out_size(c) > 0) {
      layer.make_constant(c, value);
      changed_.insert(link.layer);
    }
    if (link.reader == kNoNode) return;
    Layer& reader = layers_.at(link.reader);
    // Padding is zeros, and so is what Flatten may put between channels: only 0 is alike there.
    if (value != 0 && (reader.pads() || link.pooled)) return;
    if (reader.is_depthwise() && value == 0 && reader.in_size(c) == 0) return;
    reader.absorb_input(c, value);
    changed_.insert(link.reader);
  }

  // --- Equalization -----------------------------------------------------------------------------

  struct Pair {
    const Link* link;
    std::vector<char> free;  // by channel: stays away from the bounds of the activation
  };

  int64_t equalize() {
    std::vector<Pair> pairs;
    for (const Link& link : links_) {
      if (link.reader == kNoNode || ranges_.count(link.layer) == 0) continue;
      if (link.low > 0 || link.high <= 0) continue;
      const ChannelRanges& ranges = ranges_.at(link.layer);
      Pair pair{&link, std::vector<char>(ranges.low.size())};
      for (size_t c = 0; c < pair.free.size(); ++c) {
        constexpr double kUnseen = 1.2;  // other data may reach further than the samples
        pair.free[c] = room(link, double{ranges.low[c]}, double{ranges.high[c]}) > kUnseen;
      }
      pairs.push_back(std::move(pair));
    }
    constexpr int kRounds = 20;  // a pair changes its neighbours; sizes settle within a few
    for (int round = 0; round < kRounds; ++round) {
      double most = 0;
      for (const Pair& pair : pairs) most = std::max(most, equalize(pair));
      if (most < 1e-3) break;
    }
    return static_cast<int64_t>(pairs.size());
  }

  // What is one channel's part of the largest weight shall be the same on both sides. Returns the
  // largest change as |log factor|.
  double equalize(const Pair& pair) {
    const Link& link = *pair.link;
    Layer& first = layers_.at(link.layer);
    Layer& second = layers_.at(link.reader);
    ChannelRanges& ranges = ranges_.at(link.layer);
    const double ratio = largest(first.outputs(), [&](int64_t c) { return first.out_size(c); }) /
                         largest(second.inputs(), [&](int64_t c) { return second.in_size(c); });
    double most = 0;
    for (int64_t c = 0; c < first.outputs(); ++c) {
      const double out = first.out_size(c), in = second.in_size(c);
      if (out == 0 || in == 0 || !pair.free[static_cast<size_t>(c)]) continue;
      float& low = ranges.low[static_cast<size_t>(c)];
      float& high = ranges.high[static_cast<size_t>(c)];
      const double factor =
          std::min(std::sqrt(in / out * ratio), room(link, double{low}, double{high}));
      if (!(factor > 0) || !std::isfinite(factor) || std::fabs(std::log(factor)) < 1e-6) continue;
      first.scale_out(c, factor);
      second.scale_in(c, 1 / factor);
      low = static_cast<float>(low * factor);
      high = static_cast<float>(high * factor);
      most = std::max(most, std::fabs(std::log(factor)));
      changed_.insert(link.layer);
      changed_.insert(link.reader);
    }
    return most;
  }

  template <class Size>
  static double largest(int64_t channels, Size&& size) {
    double out = 0;
    for (int64_t c = 0; c < channels; ++c) out = std::max(out, size(c));
    return out;
  }

  // How far a channel may grow below the bounds of its activation.
  static double room(const Link& link, double low, double high) {
    double room = kInfinity;
    if (std::isfinite(link.high) && high <= 0) return 0;  // never seen: how far is not known
    if (std::isfinite(link.high) && high > 0) room = std::min(room, link.high / high);
    if (std::isfinite(link.low) && link.low < 0 && low < 0) room = std::min(room, link.low / low);
    return room;
  }

  Model& model_;
  Graph& graph_;
  const CalibrationSamples& samples_;
  std::map<NodeId, Layer> layers_;
  std::vector<Link> links_;
  std::map<NodeId, ChannelRanges> ranges_;        // by layer, of its outlet
  std::map<NodeId, ChannelRanges> inner_ranges_;  // and of its own output
  std::set<NodeId> changed_;
};

}  // namespace

PassResult prepare_channels(Model& model, PassContext& context) {
  PassResult result;
  const ModeChoice choice = choose_mode(model, context.options, context.has_data);
  const RecoverOptions recover = recover_options(context.options);
  if (choice.mode != QuantMode::static_ || !recover || context.samples == nullptr) return result;
  Conditioner(model, (*context.samples)()).run(recover.equalize, result);
  return result;
}

}  // namespace compress
