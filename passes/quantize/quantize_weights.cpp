// Weight-only quantization: MatMul and Gemm by blocks (MatMulNBits, or DequantizeLinear with
// --format qdq), embeddings by GatherBlockQuantized. Activations stay float32.
//
// accuracy_level 4 lets ONNX Runtime multiply in int8; without it 8-bit blocks take a path that was
// measured 100 times slower.
#include <algorithm>
#include <map>
#include <tuple>

#include "compress/core/int4.h"
#include "compress/core/mapped_pages.h"
#include "compress/error.h"
#include "passes/edit.h"
#include "passes/quantize/linear.h"
#include "passes/quantize/pack.h"
#include "passes/quantize/quantize_recurrent.h"
#include "passes/recover/activations.h"
#include "passes/recover/adaround.h"
#include "passes/recover/input_gram.h"
#include "passes/recover/input_scales.h"
#include "passes/recover/round_blocks.h"
#include "passes/weights.h"

namespace compress {
namespace {

constexpr int64_t kAccuracyLevel = 4;

class WeightQuantizer {
 public:
  explicit WeightQuantizer(QuantJob& job)
      : job_(job),
        graph_(job.model.graph),
        dtype_(weight_dtype(job.options, QuantMode::weight_only)),
        granularity_(granularity_of(job.options, QuantMode::weight_only)),
        bits_(weight_bits(job.options, QuantMode::weight_only)),
        algorithm_(job.options.text("algorithm")),
        qdq_((job.options.has("format") && job.options.text("format") == "qdq") ||
             granularity_.kind != Granularity::block) {
    if (!job.options.list("recover").empty()) algorithm_ = "adaround";
    if (job.in_body && algorithm_ != "rtn") algorithm_ = "hqq";
  }

  void run(Candidates found) {
    if (granularity_.kind == Granularity::tensor && (bits_ < 8 || algorithm_ != "rtn")) {
      fail(ErrorCode::usage,
           "--granularity tensor is for --weights int8 and --algorithm rtn, without --recover");
    }
    if (qdq_ && info(dtype_).bits == 2) {
      fail(ErrorCode::usage, "--weights {} is for blocks of MatMulNBits: --format nbits",
           info(dtype_).name);
    }
    if (algorithm_ == "awq") prepare_awq(found.linears);
    for (Linear& linear : found.linears) {
      refresh(graph_, linear);
      in_context([&] { return fmt::format("while quantizing {}", name_of(linear.node)); },
                 [&] { qdq_ ? dequantize(linear) : multiply_blocks(linear); });
    }
    for (Table& table : found.tables) {
      refresh(graph_, table);
      in_context([&] { return fmt::format("while quantizing {}", name_of(table.node)); },
                 [&] { bits_ < 8 ? gather_blocks(table) : gather_bytes(table); });
    }
    quantize_recurrent(job_, QuantMode::weight_only);
    for (const char* op : {"Conv", "ConvTranspose"}) {
      if (job_.selection.names_op(op)) dequantize_convolutions(op);
    }
  }

 private:
  std::string name_of(NodeId id) const { return graph_.node(id).name; }
  std::string suffix() const { return fmt::format("_Q{}", bits_); }

  // Where fewer than 4 bits are asked for, embeddings keep 4: a row is read as it is, no sum evens
  // its errors out.
  DType table_dtype() const { return info(dtype_).is_signed ? DType::int4 : DType::uint4; }

  // Whether quantizing saves bytes; says so where it does not.
  bool pays(NodeId id, int64_t before, int64_t after, int64_t nodes) {
    if (after + nodes * kNodeProtoBytes < before) return true;
    job_.skip(id, fmt::format("too small to gain: {} bytes of weights", before));
    return false;
  }

  int64_t block_bytes(int64_t rows, int64_t k) const {
    const int64_t blocks = (k + granularity_.block_size - 1) / granularity_.block_size;
    const int64_t zero_bytes = info(dtype_).is_signed ? 0 : 1;
    return rows * blocks * (granularity_.block_size * info(dtype_).bits / 8 + 4 + zero_bytes);
  }

  // --- MatMulNBits ------------------------------------------------------------------------------

  struct BlockIds {
    ValueId packed;
    ValueId scales;
    ValueId zero_points;
  };

  BlockIds blocks_of(const Linear& linear) {
    const auto key = std::pair(linear.weight, linear.transposed);
    if (const auto row = blocks_.find(key); row != blocks_.end()) return row->second;
    const std::string name = graph_.value(linear.weight).name;
    BlockWeights packed;
    if (is_plain()) {
      packed = nearest(linear);
    } else {
      const RoundedBlocks rounded = round(linear, weight_rows(graph_, linear));
      packed = pack_blocks(rounded.quantized, rounded.params);
    }
    BlockIds ids{graph_.add_constant(name + suffix(), std::move(packed.packed)),
                 graph_.add_constant(name + "_scales", std::move(packed.scales)), kNoValue};
    if (packed.zero_points) {
      ids.zero_points = graph_.add_constant(name + "_zero_points", std::move(packed.zero_points));
    }
    blocks_.emplace(key, ids);
    return ids;
  }

  // Large weights are rounded when they are written, and what was read of them is let go: neither
  // they nor their integers are in memory together.
  BlockWeights nearest(const Linear& linear) const {
    constexpr uint64_t kLarge = uint64_t{8} << 20;
    const Tensor weight = graph_.value(linear.weight).constant;
    const auto pack = [weight, transposed = linear.transposed, dtype = dtype_,
                       block = granularity_.block_size] {
      return transposed ? pack_blocks(weight, dtype, block)
                        : pack_column_blocks(weight, dtype, block);
    };
    if (weight.bytes() < kLarge && !job_.sizes_only) return pack();
    return later(
        block_shapes(linear.n, linear.k, dtype_, granularity_.block_size),
        [weight, pack, name = name_of(linear.node)] {
          BlockWeights made =
              in_context([&] { return fmt::format("while quantizing {}", name); }, pack);
          drop_mapped_pages({static_cast<const std::byte*>(weight.identity()), weight.bytes()});
          return made;
        });
  }

  static BlockWeights later(const BlockWeights& like, std::function<BlockWeights()> make) {
    std::vector<Tensor> made =
        computed_later({like.packed, like.scales, like.zero_points}, [make = std::move(make)] {
          const BlockWeights blocks = make();
          return std::vector<Tensor>{blocks.packed, blocks.scales, blocks.zero_points};
        });
    return {std::move(made[0]), std::move(made[1]), std::move(made[2])};
  }

  // --- Rounding ---------------------------------------------------------------------------------

  // To nearest, in all bits of the type.
  bool is_plain() const { return algorithm_ == "rtn" && info(dtype_).bits == bits_; }

  // A block is a whole row where the scale is per channel.
  BlockFormat format_of(const Linear& linear) const {
    const bool blocked = granularity_.kind == Granularity::block;
    return {dtype_, bits_, blocked ? granularity_.block_size : linear.k};
  }

  RoundedBlocks round(const Linear& linear, const Tensor& rows) {
    const BlockFormat format = format_of(linear);
    if (algorithm_ == "gptq") return gptq_blocks(rows, gram_of(linear), format);
    if (algorithm_ == "adaround") {
      if (is_adaround_size(linear.n, linear.k)) {
        return adaround_blocks(rows, gram_of(linear), format);
      }
      job_.skip(linear.node, kTooLargeForAdaRound);
    }
    if (algorithm_ == "hqq") return hqq_blocks(rows, format);
    if (algorithm_ == "awq") {
      if (const auto row = moments_.find(linear.weight); row != moments_.end()) {
        return clipped_blocks(rows, row->second, format);
      }
    }
    return nearest_blocks(rows, format);
  }

  void prepare_awq(std::vector<Linear>& linears) {
    samples_ = calibration_samples(job_, "--algorithm awq");
    auto moments = measure_inputs(job_.model, linears, samples_);
    if (granularity_.kind != Granularity::tensor) {
      const int64_t scaled = scale_for_awq(graph_, linears, moments,
                                           [&](const Linear& linear) { return format_of(linear); });
      job_.result.details["scaled_inputs"] = scaled;
    }
    for (Linear& linear : linears) {
      read_linear(job_.model, linear.node, linear);  // a product may have taken another's factors
      const auto row = moments.find(linear.input);
      if (row == moments.end() || row->second.rows == 0) continue;
      moments_[linear.weight] =
          Eigen::Map<const Eigen::VectorXd>(row->second.square_sum.data(), linear.k);
    }
  }

  // Of the inputs as the layers before, quantized already, put them out. Products that share an
  // input follow each other.
  const Eigen::MatrixXd& gram_of(const Linear& linear) {
    if (gram_ && gram_input_ == linear.input) return gram_->sum(0);
    if (!activations_) {
      samples_ = calibration_samples(
          job_, algorithm_ == "gptq" ? "--algorithm gptq" : "--recover adaround");
      activations_.emplace(job_.model, samples_);
    }
    const Node& node = graph_.node(linear.node);
    const bool rows_first = node.is("Gemm") && node.int_or("transB", 0) != 0;
    const Shape shape = rows_first ? Shape{linear.n, linear.k} : Shape{linear.k, linear.n};
    gram_.emplace(job_.model, linear.node, shape, static_cast<int64_t>(samples_.indices.size()));
    gram_input_ = linear.input;
    activations_->visit(linear.input, [&](const TensorView& content) { gram_->add(content); });
    return gram_->sum(0);
  }

  void multiply_blocks(const Linear& linear) {
    if (!pays(linear.node, linear.k * linear.n * 4, block_bytes(linear.n, linear.k), 1)) return;
    const BlockIds ids = blocks_of(linear);
    const std::string name = name_of(linear.node);
    NodeSpec product;
    product.op_type = "MatMulNBits";
    product.domain = "com.microsoft";
    product.name = name + suffix();
    product.inputs = {linear.input, ids.packed, ids.scales};
    if (ids.zero_points != kNoValue) product.inputs.push_back(ids.zero_points);
    product.attributes = {{"K", linear.k, ""},
                          {"N", linear.n, ""},
                          {"accuracy_level", kAccuracyLevel, ""},
                          {"bits", int64_t{info(dtype_).bits}, ""},
                          {"block_size", granularity_.block_size, ""}};
    if (linear.bias != kNoValue) {
      const std::string out = graph_.value(graph_.node(linear.node).outputs[0]).name;
      product.outputs = {out + "_product"};
      const NodeId id = graph_.insert_before(linear.node, std::move(product));
      replace_node(graph_, linear.node,
                   {"Add", {graph_.node(id).outputs[0], linear.bias}, {}, {}, name + "_bias"});
    } else {
      replace_node(graph_, linear.node, std::move(product));
    }
    job_.model.opsets.emplace("com.microsoft", 1);
    ++job_.quantized;
  }

  // --- DequantizeLinear -------------------------------------------------------------------------

  // Each reader gets a DequantizeLinear of its own: runtimes fuse one only where it has one reader.
  void dequantize(const Linear& linear) {
    const bool blocked = granularity_.kind == Granularity::block;
    const int needed = blocked ? 21 : granularity_.kind == Granularity::channel ? 13 : 10;
    if (job_.model.opset() < needed) {
      return job_.skip(linear.node, fmt::format("this form needs opset {}, the model has {}",
                                                needed, job_.model.opset()));
    }
    const int64_t scales = granularity_.kind == Granularity::tensor ? 1 : linear.n;
    const int64_t after =
        blocked ? block_bytes(linear.n, linear.k) : linear.k * linear.n + 5 * scales;
    if (!pays(linear.node, linear.k * linear.n * 4, after, 1)) return;
    std::optional<int> axis;
    if (blocked) axis = 0;
    if (granularity_.kind == Granularity::channel) axis = 1;
    const int64_t block = blocked ? granularity_.block_size : 0;
    Shape shape;
    if (blocked) shape = {(linear.k + block - 1) / block, linear.n};
    if (granularity_.kind == Granularity::channel) shape = {linear.n};
    QuantParams params;
    Tensor quantized;
    if (is_plain()) {
      const Tensor weight = weight_columns(graph_, linear);
      params = weight_params(weight, dtype_, info(dtype_).is_signed, axis, block);
      quantized = quantize(weight, params);
    } else {
      std::tie(quantized, params) =
          in_columns(round(linear, weight_rows(graph_, linear)), linear.k);
    }
    add_dequantize(linear.node, graph_.value(linear.weight).name, std::move(quantized), params,
                   shape, axis, block);
    Node& node = graph_.edit(linear.node);
    if (node.is("Gemm")) node.remove_attribute("transB");
  }

  // Integers [n, whole blocks of k] as [k, n], with the scales of a column below each other.
  static std::pair<Tensor, QuantParams> in_columns(const RoundedBlocks& rows, int64_t k) {
    const DType dtype = rows.params.dtype;
    const int64_t n = rows.quantized.shape()[0], width = rows.quantized.shape()[1];
    const int64_t blocks = width / rows.params.block_size;
    QuantParams params{dtype, rows.params.symmetric, 0, rows.params.block_size, {}, {}};
    for (int64_t i = 0; i < n * blocks; ++i) {
      const auto from = static_cast<size_t>(i % n * blocks + i / n);
      params.scales.push_back(rows.params.scales[from]);
      params.zero_points.push_back(rows.params.zero_points[from]);
    }
    const TensorData data = rows.quantized.read();
    const auto* bytes = static_cast<const uint8_t*>(data.view().data);
    const int bits = info(dtype).bits;
    Tensor out = pack_integers(dtype, {k, n}, [&](int64_t i) {
      const int64_t from = i % n * width + i / n;
      return bits == 8 ? int32_t{bytes[from]} : get_packed(bytes, from, bits, false);
    });
    return {std::move(out), std::move(params)};
  }

  // `name` is a copy: the graph's own may move when it grows.
  void add_dequantize(NodeId reader, std::string name, Tensor quantized, const QuantParams& params,
                      const Shape& shape, std::optional<int> axis, int64_t block) {
    const std::string stem = name + "_DQ" + suffix();
    NodeSpec spec;
    spec.op_type = "DequantizeLinear";
    spec.name = stem + "_node";
    spec.outputs = {name + "_dequantized"};
    spec.inputs = {graph_.add_constant(stem, std::move(quantized)),
                   graph_.add_constant(name + "_DQ_scales", scale_tensor(params, shape))};
    if (!params.symmetric) {
      spec.inputs.push_back(
          graph_.add_constant(name + "_DQ_zero_points", zero_point_tensor(params, shape)));
    }
    if (axis) spec.attributes.push_back({"axis", int64_t{*axis}, ""});
    if (block > 0) spec.attributes.push_back({"block_size", block, ""});
    const NodeId id = graph_.insert_before(reader, std::move(spec));
    graph_.set_input(reader, 1, graph_.node(id).outputs[0]);
    if (info(dtype_).bits < 8) raise_ir(10);
    ++job_.quantized;
  }

  void raise_ir(int64_t version) {
    job_.model.ir_version = std::max(job_.model.ir_version, version);
  }

  // A float32 DequantizeLinear over int8 channels, run at every inference: smaller, not faster.
  // Groups of a ConvTranspose share the scales of its output channels.
  void dequantize_convolutions(std::string_view op) {
    const std::vector<NodeId> order = graph_.order();
    for (const NodeId id : order) {
      const Node& node = graph_.node(id);
      if (!node.is(op)) continue;
      if (std::string reason = job_.selection.refusal(node); !reason.empty()) {
        job_.skip(id, std::move(reason));
        continue;
      }
      const Tensor* weight = graph_.constant_input(node, 1);
      if (weight == nullptr || weight->dtype() != DType::float32 || job_.model.opset() < 13 ||
          graph_.uses(node.inputs[1]).size() != 1) {
        job_.skip(id, "no float32 constant of its own, or an opset below 13");
        continue;
      }
      const Tensor kept = *weight;
      const int axis = op == "Conv" ? 0 : 1;
      if (kept.shape().rank() < 3) {
        job_.skip(id, "weights that are no kernels");
        continue;
      }
      const int64_t channels = kept.shape()[axis];
      if (!pays(id, kept.count() * 4, kept.count() + 5 * channels, 1)) continue;
      const std::string name = graph_.value(node.inputs[1]).name;
      const QuantParams params = weight_params(kept, DType::int8, true, axis);
      add_dequantize(id, name, quantize(kept, params), params, {channels}, axis, 0);
      job_.result.details["warning"] =
          "convolutions with weights alone in int8 run slower than float (measured 2.7 times)";
    }
  }

  // --- Embeddings -------------------------------------------------------------------------------

  void gather_blocks(const Table& table) {
    int64_t block = granularity_.block_size;
    while (block >= 16 && table.width % block != 0) block /= 2;
    if (block < 16) {
      return job_.skip(table.node,
                       fmt::format("rows of {} do not divide into blocks", table.width));
    }
    const int64_t scales = table.rows * (table.width / block);
    if (!pays(table.node, table.rows * table.width * 4,
              table.rows * table.width / 2 + scales * (info(dtype_).is_signed ? 4 : 5), 1)) {
      return;
    }
    const std::string name = graph_.value(table.weight).name;
    auto [row, is_new] = tables_.try_emplace(table.weight);
    if (is_new) {
      const auto pack = [weight = graph_.value(table.weight).constant, dtype = table_dtype(),
                         block] { return pack_table(weight, dtype, block); };
      BlockWeights packed =
          job_.sizes_only ? later(table_shapes(table.rows, table.width, table_dtype(), block), pack)
                          : pack();
      row->second = {graph_.add_constant(name + "_Q4_table", std::move(packed.packed)),
                     graph_.add_constant(name + "_table_scales", std::move(packed.scales)),
                     kNoValue};
      if (packed.zero_points) {
        row->second.zero_points =
            graph_.add_constant(name + "_table_zero_points", std::move(packed.zero_points));
      }
    }
    NodeSpec spec;
    spec.op_type = "GatherBlockQuantized";
    spec.domain = "com.microsoft";
    spec.name = name_of(table.node) + "_Q4";
    spec.inputs = {row->second.packed, table.indices, row->second.scales};
    if (row->second.zero_points != kNoValue) spec.inputs.push_back(row->second.zero_points);
    spec.attributes = {{"block_size", block, ""},
                       {"gather_axis", int64_t{0}, ""},
                       {"quantize_axis", int64_t{1}, ""}};
    replace_node(graph_, table.node, std::move(spec));
    job_.model.opsets.emplace("com.microsoft", 1);
    raise_ir(10);
    ++job_.quantized;
  }

  void gather_bytes(const Table& table) {
    if (job_.model.opset() < 10) return job_.skip(table.node, "this form needs opset 10");
    if (!pays(table.node, table.rows * table.width * 4, table.rows * table.width + 16, 1)) return;
    quantize_table(job_, table, dtype_);
    ++job_.quantized;
  }

  QuantJob& job_;
  Graph& graph_;
  DType dtype_;
  Granularity granularity_;
  int bits_;  // used of dtype_
  std::string algorithm_;
  bool qdq_;
  CalibrationSamples samples_;
  std::optional<Activations> activations_;
  std::map<ValueId, Eigen::VectorXd> moments_;  // by weight: squares of the inputs, summed
  std::optional<InputGram> gram_;
  ValueId gram_input_ = kNoValue;
  std::map<std::pair<ValueId, bool>, BlockIds> blocks_;
  std::map<ValueId, BlockIds> tables_;
};

}  // namespace

void quantize_weights(QuantJob& job) {
  for_each_scope(
      job, [](QuantJob& scope, Candidates found) { WeightQuantizer(scope).run(std::move(found)); });
}

}  // namespace compress
