// Concrete shapes: a fixed-capacity list of dimensions, so that views and plans allocate nothing.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

namespace compress {

inline constexpr int kMaxRank = 12;

// Dimensions are >= 0. In types of a graph (graph.h, TypeInfo) a negative one is not known:
// kUnknownDim, or below that a symbol ("batch"), equal to itself wherever it stands.
inline constexpr int64_t kUnknownDim = -1;

class Shape {
 public:
  Shape() = default;  // a scalar
  Shape(std::initializer_list<int64_t> dims) : Shape(std::span(dims.begin(), dims.size())) {}
  // Fails (unsupported) for more than kMaxRank dimensions.
  explicit Shape(std::span<const int64_t> dims);

  int rank() const { return rank_; }
  int64_t operator[](int i) const { return dims_[static_cast<size_t>(i)]; }
  int64_t& operator[](int i) { return dims_[static_cast<size_t>(i)]; }
  std::span<const int64_t> dims() const { return {dims_.data(), static_cast<size_t>(rank_)}; }
  const int64_t* begin() const { return dims_.data(); }
  const int64_t* end() const { return dims_.data() + rank_; }
  void push_back(int64_t dim);

  bool operator==(const Shape& other) const;

  // True where every dimension is known.
  bool is_concrete() const;
  // Number of elements; REQUIRES is_concrete(). Fails (invalid_model) on overflow of 63 bits.
  int64_t count() const;
  // Product of dims [first, last).
  int64_t count(int first, int last) const;

  std::string to_string() const;  // "[1,3,224,224]"; unknown dimensions are "?"

 private:
  std::array<int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

// Row-major strides in elements.
Shape strides_of(const Shape& shape);

// An axis in [-rank, rank) as one in [0, rank); fails (invalid_model) outside.
int normalize_axis(int64_t axis, int rank);

// The shape that both broadcast to (NumPy rules); fails (invalid_model) where there is none.
// Unknown dimensions: known != 1 wins; equal symbols stay; otherwise unknown.
Shape broadcast(const Shape& a, const Shape& b);

}  // namespace compress
