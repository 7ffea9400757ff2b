// Every row of the table on operands that no sound model has: each ends in outputs or in an Error,
// never in a crash. Run by the sanitizer build too.
#include <catch2/catch.hpp>

#include <cstdlib>
#include <iostream>
#include <new>
#include <random>

#include "compress/error.h"
#include "run.h"

namespace compress {
namespace {

const std::vector<Shape>& shapes() {
  static const std::vector<Shape> list = {{},        {0},       {1},          {2},
                                          {4},       {2, 3},    {3, 2},       {0, 3},
                                          {2, 0, 3}, {1, 2, 4}, {1, 2, 4, 4}, {2, 1, 3, 3, 1}};
  return list;
}

constexpr DType kTypes[] = {DType::float32, DType::int64,   DType::float32, DType::uint8,
                            DType::int8,    DType::float16, DType::int32,   DType::boolean,
                            DType::float64, DType::uint4};

// Small numbers, with some that no index, axis or size can be.
Tensor tensor_of(DType dtype, const Shape& shape, std::mt19937& random) {
  constexpr int64_t kOdd[] = {0, 1, -1, 2, 3, 1, 2, -3, 7, 100, 4, 0, 1};
  Tensor wide = Tensor::allocate(DType::int64, shape);
  for (int64_t& value : wide.mutable_as<int64_t>()) value = kOdd[random() % std::size(kOdd)];
  if (dtype == DType::uint4) return Tensor::zeros(dtype, shape);
  return convert(wide, dtype);
}

std::vector<Attribute> attributes_of(std::mt19937& random) {
  const auto number = [&] { return static_cast<int64_t>(random() % 7) - 2; };
  const auto list = [&](size_t n) {
    std::vector<int64_t> values;
    for (size_t i = 0; i < n; ++i) values.push_back(number());
    return values;
  };
  std::vector<Attribute> attributes;
  const auto maybe = [&](const char* name, AttributeValue value) {
    if (random() % 3 == 0) attributes.push_back(attr(name, std::move(value)));
  };
  const size_t spatial = 1 + random() % 3;
  maybe("axis", number());
  maybe("axes", list(random() % 3));
  maybe("keepdims", number());
  maybe("perm", list(random() % 4));
  maybe("kernel_shape", list(spatial));
  maybe("strides", list(spatial));
  maybe("dilations", list(spatial));
  maybe("pads", list(2 * spatial));
  maybe("group", number());
  maybe("blocksize", number());
  maybe("block_size", number());
  maybe("to", int64_t{1} + static_cast<int64_t>(random() % 24));
  maybe("batch_dims", number());
  maybe("hidden_size", number());
  maybe("num_heads", number());
  maybe("k", number());
  maybe("K", number());
  maybe("N", number());
  maybe("bits", int64_t{4});
  maybe("num_outputs", number());
  maybe("split", list(2));
  maybe("start", number());
  maybe("ceil_mode", int64_t{1});
  maybe("auto_pad", std::string("SAME_UPPER"));
  const char* modes[] = {"linear", "cubic", "reflect", "edge", "wrap", "nearest", "CRD"};
  maybe("mode", std::string(modes[random() % std::size(modes)]));
  maybe("size", number());
  return attributes;
}

}  // namespace

TEST_CASE("no row crashes on operands that do not fit it") {
  // Each case is a function of its number, so that a crash can be repeated from there.
  const char* only = std::getenv("COMPRESS_HOSTILE_FROM");
  const bool trace = std::getenv("COMPRESS_TEST_TRACE") != nullptr;
  uint32_t number = 0;
  size_t ran = 0, refused = 0;
  for (const auto& family : op_families()) {
    for (const OpDef& op : family) {
      for (int repeat = 0; repeat < 400; ++repeat) {
        ++number;
        if (only != nullptr && number < static_cast<uint32_t>(std::atoi(only))) continue;
        std::mt19937 random(number);
        test::NodeCase c;
        c.op = std::string(op.name);
        c.domain = std::string(op.domain);
        c.opset = op.domain.empty() ? op.since_version + static_cast<int>(random() % 16) : 1;
        c.attributes = attributes_of(random);
        c.outputs = 1 + random() % 3;
        c.constants = random() % 2 == 0;
        const size_t inputs = random() % 6;
        const DType first = kTypes[random() % std::size(kTypes)];
        const Shape& shape = shapes()[random() % shapes().size()];
        for (size_t i = 0; i < inputs; ++i) {
          const bool same = random() % 2 == 0;
          const DType dtype = random() % 2 == 0 ? first : kTypes[random() % std::size(kTypes)];
          c.inputs.push_back(
              tensor_of(dtype, same ? shape : shapes()[random() % shapes().size()], random));
          if (random() % 12 == 0) c.inputs.back() = Tensor();
        }
        if (trace) std::cerr << number << ' ' << c.op << ' ' << c.opset << std::endl;
        try {
          test::run(c);
          ++ran;
        } catch (const Error& error) {
          CHECK(error.code() != ErrorCode::internal);
          ++refused;
        } catch (const std::bad_alloc&) {  // asked for more than there is: refused as well
          ++refused;
        }
      }
    }
  }
  CHECK(ran + refused > 0);
  if (only == nullptr) CHECK(ran > 1000);
  std::cout << ran << " hostile cases ran, " << refused << " were refused\n";
}

}  // namespace compress
