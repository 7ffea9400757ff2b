// Ranks as threads of this process: what several of them make is what one makes.
#include <catch2/catch.hpp>

#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <random>
#include <thread>

#include "compress/error.h"
#include "compress/graph/builder.h"
#include "compress/train/trainer.h"
#include "compress/train/tree_sum.h"

namespace compress {
namespace {

using train::Ranks;
using train::TrainOptions;
using train::TrainResult;

// Messages between threads. When one rank fails, those that wait for it do as well.
class Group {
 public:
  explicit Group(int size) : size_(size) {}

  // The first error of a rank is rethrown.
  void run(const std::function<void(const Ranks&)>& body) {
    std::vector<std::thread> threads;
    for (int rank = 0; rank < size_; ++rank) {
      threads.emplace_back([&, rank] {
        try {
          body(member(rank));
        } catch (...) {
          const std::lock_guard lock(mutex_);
          if (!failed_) failed_ = std::current_exception();
          changed_.notify_all();
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    if (failed_) std::rethrow_exception(failed_);
    CHECK(waiting() == 0);
  }

  int64_t messages() const { return messages_; }

 private:
  using Bytes = std::vector<std::byte>;

  size_t waiting() const {
    size_t count = 0;
    for (const auto& [pair, queue] : queues_) count += queue.size();
    return count;
  }

  void put(int from, int to, std::span<const std::byte> bytes) {
    const std::lock_guard lock(mutex_);
    ++messages_;
    queues_[{from, to}].emplace_back(bytes.begin(), bytes.end());
    changed_.notify_all();
  }

  void get(int from, int to, std::span<std::byte> bytes) {
    std::unique_lock lock(mutex_);
    std::deque<Bytes>& queue = queues_[{from, to}];
    changed_.wait(lock, [&] { return failed_ || !queue.empty(); });
    if (queue.empty()) throw std::runtime_error("another rank failed");
    if (queue.front().size() != bytes.size()) throw std::runtime_error("a message of another size");
    std::copy(queue.front().begin(), queue.front().end(), bytes.begin());
    queue.pop_front();
  }

  Ranks member(int me) {
    Ranks ranks{me, size_, {}, {}, {}};
    ranks.send = [this, me](int to, std::span<const std::byte> bytes) { put(me, to, bytes); };
    ranks.receive = [this, me](int from, std::span<std::byte> bytes) { get(from, me, bytes); };
    ranks.broadcast = [this, me](int from, std::span<std::byte> bytes) {
      if (me != from) return get(from, me, bytes);
      for (int to = 0; to < size_; ++to) {
        if (to != from) put(from, to, bytes);
      }
    };
    return ranks;
  }

  int size_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::pair<int, int>, std::deque<Bytes>> queues_;
  std::exception_ptr failed_;
  int64_t messages_ = 0;
};

std::vector<float> part_values(int64_t part, size_t width) {
  std::mt19937 generator(static_cast<uint32_t>(part) + 1);
  std::uniform_real_distribution<float> values(-1, 1);
  std::vector<float> out(width);
  for (float& value : out) value = values(generator) * std::exp2(static_cast<float>(part % 9));
  return out;
}

std::vector<float> tree_of(const Ranks& ranks, int64_t parts, size_t width) {
  train::TreeSum sum(width);
  std::vector<int64_t> filled;
  for (int round = 0; round < 2; ++round) {  // nothing is left of the first
    sum.run(ranks, parts, [&](int64_t part, std::span<float> out) {
      filled.push_back(part);
      const std::vector<float> values = part_values(part, width);
      std::copy(values.begin(), values.end(), out.begin());
    });
  }
  const int64_t first = train::first_part(ranks, parts, ranks.rank);
  const int64_t own = train::first_part(ranks, parts, ranks.rank + 1) - first;
  if (static_cast<int64_t>(filled.size()) != 2 * own) throw std::runtime_error("wrong parts");
  return {sum.total().begin(), sum.total().end()};
}

// The rule, written down another way: neighbours are added until one is left.
std::vector<float> tree_by_levels(int64_t parts, size_t width) {
  std::vector<std::vector<float>> level;
  for (int64_t part = 0; part < parts; ++part) level.push_back(part_values(part, width));
  while (level.size() > 1) {
    std::vector<std::vector<float>> next;
    for (size_t i = 0; i < level.size(); i += 2) {
      next.push_back(level[i]);
      if (i + 1 == level.size()) continue;
      for (size_t k = 0; k < width; ++k) next.back()[k] += level[i + 1][k];
    }
    level = std::move(next);
  }
  return level[0];
}

// Images [1, 1, 4, 4] and four classes.
class Images : public SampleSource {
 public:
  int64_t size() const override { return 75; }
  Sample get(int64_t index) override {
    Tensor image = Tensor::allocate(DType::float32, {1, 1, 4, 4});
    const std::vector<float> values = part_values(9 * index, 16);
    std::copy(values.begin(), values.end(), image.mutable_as<float>().begin());
    image.mutable_as<float>()[static_cast<size_t>(index % 4)] += 2;
    return {{{"x", image}}, Tensor::from<int64_t>({1}, {index % 4})};
  }
  bool labelled() const override { return true; }
  std::string description() const override { return "images"; }
};

// Conv, BatchNormalization, Relu, Dropout, Gemm.
Model small_net(int64_t seed) {
  GraphBuilder b;
  const int64_t batch = b.graph().symbol("batch");
  const auto weights = [&](const Shape& shape) {
    const std::vector<float> values = part_values(9 * ++seed, static_cast<size_t>(shape.count()));
    return b.constant(Tensor::from<float>(shape, std::span<const float>(values)), "w");
  };
  const auto fixed = [&](float value) {
    return b.constant(Tensor::from<float>({3}, {value, value, value}), "bn");
  };
  ValueId y = b.graph().add_input("x", {DType::float32, true, Shape{batch, 1, 4, 4}});
  y = b.op("Conv", {y, weights({3, 1, 3, 3})});
  y = b.op("BatchNormalization", {y, fixed(1), fixed(0), fixed(0), fixed(1)},
           {attr("momentum", 0.75f)});
  y = b.op("Flatten", {b.op("Relu", {y})});
  y = b.op("Dropout", {y, b.constant(Tensor::scalar(0.25f))});
  b.output(b.op("Gemm", {y, weights({12, 4}), weights({4})}), "y");
  return std::move(b).model(17);
}

TrainOptions net_options() {
  TrainOptions options;
  options.epochs = 2;
  options.batch = 4;
  options.accumulate = 5;
  options.schedule.rate = 5e-3;
  options.loss.terms = train::parse_loss("kl:T=2,alpha=0.5");
  options.dropout = true;
  options.clip_norm = 0.5;
  options.seed = 3;
  return options;
}

struct Outcome {
  std::vector<float> values;
  std::vector<double> losses;
  std::vector<std::vector<NamedTensor>> saved;
};

// Rank 0's; the others must have the same.
Outcome train_with(int size, const TrainOptions& options,
                   const std::vector<NamedTensor>& resume = {}) {
  std::vector<Outcome> all(static_cast<size_t>(size));
  const Model student = small_net(1), teacher = small_net(40);
  Group(size).run([&](const Ranks& ranks) {
    Images data;
    std::vector<int64_t> indices(static_cast<size_t>(data.size()));
    for (size_t i = 0; i < indices.size(); ++i) indices[i] = static_cast<int64_t>(i);
    Outcome& out = all[static_cast<size_t>(ranks.rank)];
    train::TrainHooks hooks;
    hooks.ranks = ranks;
    hooks.save_seconds = 0;
    hooks.save = [&](const std::vector<NamedTensor>& state) { out.saved.push_back(state); };
    const TrainResult result =
        train::train(student, &teacher, data, indices, options, hooks, resume);
    for (const NamedTensor& value : result.values) {
      const TensorData read = value.tensor.read();
      out.values.insert(out.values.end(), read.as<float>().begin(), read.as<float>().end());
    }
    for (const train::EpochRecord& epoch : result.epochs) {
      if (epoch.epoch > 0) out.losses.push_back(epoch.loss);
      out.losses.push_back(epoch.validation_loss);
      out.losses.push_back(epoch.accuracy);
    }
  });
  for (size_t rank = 1; rank < all.size(); ++rank) {
    CHECK(all[rank].values == all[0].values);
    CHECK(all[rank].losses == all[0].losses);
    CHECK(all[rank].saved.empty());
  }
  return std::move(all[0]);
}

}  // namespace

TEST_CASE("every part has one rank, and rank 0 one at least") {
  for (const int size : {1, 2, 3, 5, 8}) {
    for (int64_t parts = 0; parts < 20; ++parts) {
      CAPTURE(size, parts);
      const Ranks ranks{0, size, {}, {}, {}};
      CHECK(train::first_part(ranks, parts, 0) == 0);
      CHECK(train::first_part(ranks, parts, size) == parts);
      int64_t least = parts, most = 0;
      for (int rank = 0; rank < size; ++rank) {
        const int64_t own =
            train::first_part(ranks, parts, rank + 1) - train::first_part(ranks, parts, rank);
        least = std::min(least, own);
        most = std::max(most, own);
      }
      CHECK(most - least <= 1);
      CHECK(train::first_part(ranks, parts, 1) == most);
    }
  }
}

TEST_CASE("a tree of parts is the same sum for any number of ranks, to the bit") {
  constexpr size_t kWidth = 1001;
  for (const int64_t parts : {1, 2, 3, 4, 5, 6, 7, 8, 13, 16, 29}) {
    const std::vector<float> expected = tree_by_levels(parts, kWidth);
    CHECK(tree_of({}, parts, kWidth) == expected);
    for (const int size : {2, 3, 4, 7}) {
      CAPTURE(parts, size);
      std::vector<std::vector<float>> found(static_cast<size_t>(size));
      Group(size).run([&](const Ranks& ranks) {
        found[static_cast<size_t>(ranks.rank)] = tree_of(ranks, parts, kWidth);
      });
      for (const std::vector<float>& sum : found) CHECK(sum == expected);
    }
  }
  // The order shows, or the test would say nothing.
  std::vector<float> in_a_row = part_values(0, kWidth);
  for (int64_t part = 1; part < 29; ++part) {
    const std::vector<float> values = part_values(part, kWidth);
    for (size_t i = 0; i < kWidth; ++i) in_a_row[i] += values[i];
  }
  CHECK_FALSE(in_a_row == tree_by_levels(29, kWidth));
}

TEST_CASE("what ranks share reaches all of them") {
  Group(3).run([&](const Ranks& ranks) {
    std::vector<double> values(10);
    train::for_own_parts(ranks, 5, [&](int64_t part) {
      for (const int64_t i : {2 * part, 2 * part + 1}) {
        values[static_cast<size_t>(i)] = static_cast<double>(100 + i);
      }
    });
    train::share_parts(ranks, 5, values);
    for (size_t i = 0; i < values.size(); ++i) {
      if (values[i] != static_cast<double>(100 + i)) throw std::runtime_error("a part is missing");
    }
    std::vector<NamedTensor> tensors;
    const std::vector<NamedTensor> expected = {
        {"a/b", Tensor::from<float>({2, 1}, {1, 2})},
        {"", Tensor::scalar<int64_t>(-5)},
        {"none", Tensor::from<double>({0}, std::initializer_list<double>())}};
    if (ranks.rank == 1) tensors = expected;
    train::share_tensors(ranks, 1, tensors);
    if (tensors.size() != expected.size()) throw std::runtime_error("tensors are missing");
    for (size_t i = 0; i < expected.size(); ++i) {
      if (tensors[i].name != expected[i].name ||
          !same_content(tensors[i].tensor, expected[i].tensor)) {
        throw std::runtime_error("another tensor");
      }
    }
  });
}

TEST_CASE("several ranks train what one trains, to the bit") {
  for (const bool augmented : {false, true}) {
    TrainOptions options = net_options();
    options.augment.flip = augmented;  // and the teacher's outputs are not kept
    const Outcome one = train_with(1, options);
    REQUIRE(one.losses.size() == 8);
    REQUIRE(one.values.size() > 80);
    for (const int size : {2, 3, 4, 5}) {
      CAPTURE(size, augmented);
      const Outcome several = train_with(size, options);
      CHECK(several.values == one.values);
      CHECK(several.losses == one.losses);
      REQUIRE(several.saved.size() == one.saved.size());
      for (const size_t at : {size_t{1}, one.saved.size() - 2}) {
        CHECK(train_with(size, options, one.saved[at]).values == one.values);
        CHECK(train_with(1, options, several.saved[at]).values == one.values);
      }
    }
  }
}

TEST_CASE("ranks that cannot share an update, or do not train the same, are refused") {
  TrainOptions options = net_options();
  options.accumulate = 2;
  CHECK_THROWS_WITH(train_with(3, options), Catch::Contains("give --accumulate 3"));
  const Model student = small_net(1), other = small_net(2);
  Images data;
  const auto differing = [&](const std::function<void(int, TrainOptions&, bool&)>& change) {
    Group(2).run([&](const Ranks& ranks) {
      TrainOptions own = net_options();
      own.loss.terms = train::parse_loss("cross-entropy");
      bool is_other = false;
      change(ranks.rank, own, is_other);
      train::TrainHooks hooks;
      hooks.ranks = ranks;
      Images samples;
      train::train(is_other ? other : student, nullptr, samples, {0, 1, 2, 3, 4, 5}, own, hooks);
    });
  };
  CHECK_NOTHROW(differing([](int, TrainOptions&, bool&) {}));
  CHECK_THROWS_WITH(
      differing([](int rank, TrainOptions& own, bool&) { own.schedule.rate = 0.01 + rank; }),
      Catch::Contains("rank 1: it trains another model, with other options"));
  CHECK_THROWS_WITH(differing([](int rank, TrainOptions&, bool& is_other) { is_other = rank > 0; }),
                    Catch::Contains("rank 1: it trains another model"));
}

}  // namespace compress
