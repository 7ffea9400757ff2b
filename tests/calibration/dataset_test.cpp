#include "calibration/dataset.h"

#include "formats/arrays.h"
#include "tests/calibration/support.h"

namespace compress {
namespace {

constexpr int64_t kOpen = kUnknownDim;
using Doubles = std::vector<double>;

Tensor counting(DType dtype, const Shape& shape) {
  std::vector<double> values(static_cast<size_t>(shape.count()));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(i % 200);
  return convert(Tensor::from<double>(shape, values), dtype);
}

// A BMP of 24 bits whose pixel (x, y) is red 10 x, green 10 y, blue 7.
std::string bmp(int width, int height) {
  std::string out("BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0", 18);
  const auto append = [&](int value, int bytes) {
    for (int i = 0; i < bytes; ++i) out += static_cast<char>(value >> (8 * i));
  };
  append(width, 4), append(-height, 4), append(1, 2), append(24, 2);
  out += std::string(24, '\0');
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) append(7, 1), append(10 * y, 1), append(10 * x, 1);
    out += std::string(static_cast<size_t>((4 - width * 3 % 4) % 4), '\0');
  }
  return out;
}

Doubles values_of(const Sample& sample, size_t input = 0) {
  return sample.inputs.at(input).tensor.to_doubles();
}

}  // namespace

TEST_CASE("npz: by name, in the model's order, labels apart") {
  const Scratch scratch;
  write_npz(scratch / "a.npz",
            {{"b", counting(DType::int64, {3, 4})},
             {"label", Tensor::from<int64_t>({3}, {7, 8, 9})},
             {"a", counting(DType::float32, {3, 2, 2})},
             {"extra", counting(DType::float32, {5})}},
            false);
  const Model model =
      taking({{"a", DType::float32, {kOpen, 2, kOpen}}, {"b", DType::int64, {kOpen, kOpen}}});
  const auto source = open(scratch / "a.npz", model);
  CHECK(source->size() == 3);
  CHECK(source->labelled());
  CHECK(source->constants().empty());
  const Sample sample = source->get(1);
  REQUIRE(sample.inputs.size() == 2);
  CHECK(sample.inputs[0].name == "a");
  CHECK(sample.inputs[0].tensor.shape() == Shape{1, 2, 2});
  CHECK(values_of(sample) == Doubles{4, 5, 6, 7});
  CHECK(values_of(sample, 1) == Doubles{4, 5, 6, 7});
  CHECK(sample.label->shape() == Shape{1});
  CHECK(sample.label->to_int() == 8);

  const Sample both = join(*source, {2, 0});
  CHECK(both.inputs[1].tensor.shape() == Shape{2, 4});
  CHECK(values_of(both, 1) == Doubles{8, 9, 10, 11, 0, 1, 2, 3});
  CHECK(both.label->to_ints() == std::vector<int64_t>{9, 7});

  const auto part = subset(*source, {2, 1});
  CHECK(part->size() == 2);
  CHECK(part->get(0).label->to_int() == 9);
  CHECK_THAT(part->description(), Catch::Contains("2 of a.npz: 3 samples, labelled"));
}

TEST_CASE("npz: next tokens, constants, scalars, a fixed batch") {
  const Scratch scratch;
  write_npz(scratch / "a.npz",
            {{"ids", counting(DType::int64, {4, 5})},
             {"label", counting(DType::int64, {4, 5})},
             {"state", counting(DType::float32, {2, 1, 3})},
             {"rate", Tensor::scalar<int64_t>(16000)}},
            false);
  const Model model = taking({{"ids", DType::int64, {kOpen, kOpen}},
                              {"state", DType::float32, {2, kOpen, 3}},
                              {"rate", DType::int64, {}}});
  write_bytes(scratch / "spec.json", R"({"npz": "a.npz", "constants": ["state"]})");
  const auto source = open(scratch / "spec.json", model);
  CHECK(source->constants() == std::vector<std::string>{"state", "rate"});
  const Sample joined = join(*source, {0, 3});
  CHECK(joined.inputs[0].tensor.shape() == Shape{2, 5});
  CHECK(joined.inputs[1].tensor.shape() == Shape{2, 1, 3});
  CHECK(joined.inputs[2].tensor.to_int() == 16000);
  CHECK(joined.label->shape() == Shape{2, 5});
  CHECK(source->get(2).label->shape() == Shape{1, 5});
  CHECK_THAT(refusal(scratch / "a.npz", model), Catch::Contains("constants"));

  // A state for each sample: its axis 0 is not the batch, and is as long as the model fixes it.
  write_npz(scratch / "states.npz",
            {{"ids", counting(DType::int64, {4, 5})},
             {"state", counting(DType::float32, {8, 1, 3})},
             {"rate", Tensor::scalar<int64_t>(16000)}},
            false);
  const auto states = open(scratch / "states.npz", model);
  CHECK(states->size() == 4);
  const Sample third = states->get(2);
  CHECK(third.inputs[0].tensor.shape() == Shape{1, 5});
  CHECK(third.inputs[1].tensor.shape() == Shape{2, 1, 3});
  CHECK(values_of(third, 1)[0] == 12);

  const Model pairs = taking({{"ids", DType::int64, {2, 5}}});
  const auto by_two = open(scratch / "a.npz", pairs);
  CHECK(by_two->size() == 2);
  CHECK(by_two->get(1).inputs[0].tensor.shape() == Shape{2, 5});
  CHECK(by_two->get(1).label->shape() == Shape{2, 5});
}

TEST_CASE("a single array to a single input; types that convert by themselves and that do not") {
  const Scratch scratch;
  const auto with = [&](DType from, DType to, const Shape& shape = {2, 4}) {
    write_npz(scratch / "a.npz", {{"x", counting(from, shape)}}, true);
    return refusal(scratch / "a.npz", taking({{"other", to, {kOpen, 4}}}));
  };
  CHECK(with(DType::float32, DType::float32).empty());
  CHECK(with(DType::uint8, DType::float32).empty());
  CHECK(with(DType::float64, DType::float16).empty());
  CHECK(with(DType::int32, DType::int64).empty());
  CHECK(with(DType::int64, DType::int32).empty());
  CHECK_THAT(with(DType::int64, DType::float32), Catch::Contains("\"dtype\" converts"));
  CHECK_THAT(with(DType::float32, DType::int64),
             Catch::Contains("is float32, but the model takes"));
  CHECK_THAT(with(DType::float32, DType::float32, {2, 5}), Catch::Contains("'other' float32[?,4]"));
  CHECK_THAT(with(DType::float32, DType::float32, {2, 4, 4}), Catch::Contains("shape [1,4,4]"));
  CHECK_THAT(with(DType::float32, DType::float32, {0, 4}), Catch::Contains("0 rows"));
  write_npz(scratch / "a.npz", {{"x", Tensor::from<int64_t>({1, 1}, {int64_t{1} << 40})}}, true);
  CHECK_THAT(refusal(scratch / "a.npz", taking({{"x", DType::int32, {kOpen, 1}}})),
             Catch::Contains("are no int32"));
  write_npz(scratch / "a.npz",
            {{"x", counting(DType::float32, {2, 4})}, {"y", counting(DType::float32, {2, 4})}},
            true);
  CHECK_THAT(refusal(scratch / "a.npz", taking({{"z", DType::float32, {kOpen, 4}}})),
             Catch::Contains("x, y") && Catch::Contains("'z' float32[?,4]"));
  CHECK_THAT(refusal(R"({"npz": ")" + (scratch / "a.npz") + R"(", "inputs": {"z": "y"}})",
                     taking({{"z", DType::float32, {kOpen, 4}}})),
             Catch::Equals(""));
}

TEST_CASE("a spec's mean, std, scale, layouts and colours") {
  const Scratch scratch;
  // Two samples of 1 x 2 pixels with 3 channels.
  const Tensor pixels = counting(DType::uint8, {2, 1, 2, 3});
  write_npz(scratch / "a.npz", {{"x", pixels}}, false);
  const Model nchw = taking({{"input", DType::float32, {kOpen, 3, 1, 2}}});
  const auto read = [&](const std::string& keys, const Model& model, int64_t index = 1) {
    write_bytes(scratch / "s.json", R"({"npz": "a.npz", )" + keys + "}");
    return values_of(open(scratch / "s.json", model)->get(index));
  };
  CHECK(read(R"("source_layout": "nhwc")", nchw) == Doubles{6, 9, 7, 10, 8, 11});
  CHECK(read(R"("source_layout": "nhwc", "color": "bgr")", nchw) == Doubles{8, 11, 7, 10, 6, 9});
  CHECK(read(R"("source_layout": "nhwc", "mean": [1, 2, 3], "std": [1, 1, 2])", nchw) ==
        Doubles{5, 8, 5, 8, 2.5, 4});
  CHECK(read(R"("source_layout": "nhwc", "scale": 2, "mean": 1)", nchw) ==
        Doubles{2, 3.5, 2.5, 4, 3, 4.5});
  const Model nhwc = taking({{"input", DType::float32, {kOpen, 1, 2, 3}}});
  CHECK(read(R"("mean": 6, "layout": "nhwc")", nhwc) == Doubles{0, 1, 2, 3, 4, 5});
  CHECK(read(R"("mean": [6, 7, 8], "layout": "nhwc", "dtype": "float32")", nhwc) ==
        Doubles{0, 0, 0, 3, 3, 3});
  const auto broken = [&](const std::string& keys, const char* reason) {
    write_bytes(scratch / "s.json", R"({"npz": "a.npz", )" + keys + "}");
    CHECK_THAT(refusal(scratch / "s.json", nhwc), Catch::Contains(reason));
  };
  broken(R"("mean": [1, 2])", "2 numbers in mean or std");
  broken(R"("men": 1)", "did you mean 'mean'");
  broken(R"("std": 0)", "other than 0");
  broken(R"("layout": "nhcw")", "one of nchw, nhwc");
  broken(R"("dtype": "int8")", "the data spec says int8");
  broken(R"("idx": "b.idx")", "under one of");
  broken(R"("resize": 0)", "a size in pixels");
  broken(R"("constants": 1)", "a list of names");
  broken(R"("input": "y")", "no input 'y'");
}

TEST_CASE("images: folders, labels, geometry, colours") {
  const Scratch scratch;
  std::filesystem::create_directories(scratch / "images/b");
  write_bytes(scratch / "images/z.bmp", bmp(6, 4));
  write_bytes(scratch / "images/b/a.bmp", bmp(4, 4));
  write_bytes(scratch / "images/notes.txt", "not an image");
  const Model model = taking({{"x", DType::float32, {kOpen, 3, 4, 4}}});
  const auto plain = open(scratch / "images", model);
  CHECK(plain->size() == 2);
  CHECK_FALSE(plain->labelled());
  CHECK_THAT(plain->description(), Catch::Contains("2 images, no preprocessing given"));
  const Tensor first = plain->get(0).inputs[0].tensor;
  CHECK(first.shape() == Shape{1, 3, 4, 4});
  const Doubles values = first.to_doubles();
  CHECK(Doubles(values.begin(), values.begin() + 4) == Doubles{0, 10, 20, 30});
  CHECK(values[16 + 5] == 10);  // green is the row
  CHECK(values[32] == 7);
  // 6 x 4 covers 4 x 4 already: one column goes on either side.
  CHECK(plain->get(1).inputs[0].tensor.to_doubles()[0] == 10);

  write_bytes(scratch / "labels.csv", "file,label\nz.bmp,3\nb/a.bmp,1\n");
  write_bytes(scratch / "s.json",
              R"({"images": "images", "labels": "labels.csv", "resize": 4, "crop": 4,
                  "color": "bgr", "mean": [7, 0, 0], "std": 10, "layout": "nchw"})");
  const auto listed = open(scratch / "s.json", model);
  CHECK(listed->labelled());
  CHECK(listed->get(0).label->to_int() == 3);
  CHECK(listed->get(1).label->to_int() == 1);
  const Doubles bgr = values_of(listed->get(1));
  CHECK(bgr[0] == 0);  // blue 7 less its mean
  CHECK(Doubles(bgr.begin() + 32, bgr.begin() + 36) == Doubles{0, 1, 2, 3});
  CHECK(listed->description() != plain->description());

  const Model gray = taking({{"x", DType::float32, {kOpen, 4, 4, 1}}});
  const Doubles luma = values_of(open(scratch / "images", gray)->get(0));
  REQUIRE(luma.size() == 16);
  CHECK(luma[5] == 10);  // 0.299 * 10 + 0.587 * 10 + 0.114 * 7 = 9.66
  const Model open_size = taking({{"x", DType::uint8, {kOpen, 3, kOpen, kOpen}}});
  CHECK(open(scratch / "images", open_size)->get(1).inputs[0].tensor.shape() == Shape{1, 3, 4, 6});
  CHECK_THROWS_WITH(join(*open(scratch / "images", open_size), {0, 1}),
                    Catch::Contains("differ in shape"));

  write_bytes(scratch / "away.csv", "file,label\n../z.bmp,3\n");
  CHECK_THAT(refusal(scratch / "images", model, scratch / "away.csv"),
             Catch::Contains("no file inside the folder"));
  write_bytes(scratch / "word.csv", "file,label\nz.bmp,cat\n");
  CHECK_THAT(refusal(scratch / "images", model, scratch / "word.csv"),
             Catch::Contains("'cat' is no integer"));
  write_bytes(scratch / "s.json", R"({"images": "images", "resize": 4})");
  CHECK_THAT(refusal(scratch / "s.json", taking({{"x", DType::float32, {1, 3, 5, 5}}})),
             Catch::Contains("the model takes 'x' float32[1,3,5,5]"));
  CHECK_THAT(refusal(scratch / "images", taking({{"x", DType::float32, {kOpen, 10}}})),
             Catch::Contains("images are fed as"));
  std::filesystem::create_directories(scratch / "empty");
  CHECK_THAT(refusal(scratch / "empty", model), Catch::Contains("holds no images"));
  CHECK(refusal(scratch / "images/z.bmp", model).empty());
}

TEST_CASE("npy, IDX and CSV; labels in files of their own") {
  const Scratch scratch;
  const Model model = taking({{"x", DType::float32, {1, 1, 2, 2}}});
  write_npy(scratch / "x.npy", counting(DType::uint8, {6, 2, 2}));
  write_npy(scratch / "y.npy", counting(DType::int32, {6}));
  const auto source = open(scratch / "x.npy", model, scratch / "y.npy");
  CHECK(source->size() == 6);
  CHECK(source->get(2).inputs[0].tensor.shape() == Shape{1, 1, 2, 2});
  CHECK(values_of(source->get(2)) == Doubles{8, 9, 10, 11});
  CHECK(source->get(2).label->to_int() == 2);

  write_npy(scratch / "scores.npy", Tensor::from<float>({3}, {0.5f, 1.25f, 4}));
  const auto pairs = open(scratch / "x.npy", model, scratch / "scores.npy");
  CHECK_FALSE(pairs->labelled());
  CHECK(pairs->pair_scores() == Doubles{0.5, 1.25, 4});
  CHECK(subset(*pairs, {4, 5, 0, 1})->pair_scores() == Doubles{4, 0.5});
  CHECK(subset(*pairs, {0, 3})->pair_scores().empty());
  write_npy(scratch / "odd.npy", Tensor::from<float>({4}, {0.5f, 1, 2, 3}));
  CHECK_THAT(refusal(scratch / "x.npy", model, scratch / "odd.npy"),
             Catch::Contains("neither a class a sample nor a score a pair"));

  write_bytes(scratch / "i.idx", std::string("\0\0\x08\x03\0\0\0\2\0\0\0\2\0\0\0\2"
                                             "\1\2\3\4\5\6\7\x8",
                                             24));
  write_bytes(scratch / "l.idx", std::string("\0\0\x08\x01\0\0\0\2\x9\x8", 10));
  const auto idx = open(scratch / "i.idx", model, scratch / "l.idx");
  CHECK(values_of(idx->get(1)) == Doubles{5, 6, 7, 8});
  CHECK(idx->get(1).label->to_int() == 8);

  write_bytes(scratch / "t.csv", "a,label,b\n1,5,2.5\n-3,6,4e1\n");
  const auto csv = open(scratch / "t.csv", taking({{"x", DType::float32, {kOpen, 2}}}));
  CHECK(values_of(csv->get(1)) == Doubles{-3, 40});
  CHECK(csv->get(1).label->to_int() == 6);
  const auto columns =
      open(scratch / "t.csv",
           taking({{"b", DType::float32, {kOpen, 1}}, {"a", DType::int64, {kOpen, 1}}}));
  CHECK(values_of(columns->get(0), 1) == Doubles{1});
  CHECK(columns->get(0).inputs[1].tensor.dtype() == DType::int64);
  write_bytes(scratch / "t.csv", "a\nx\n");
  CHECK_THAT(refusal(scratch / "t.csv", taking({{"x", DType::float32, {kOpen, 1}}})),
             Catch::Contains("'x' is no number"));
}

TEST_CASE("what is no data set is refused with what is accepted") {
  const Scratch scratch;
  const Model model = taking({{"x", DType::float32, {kOpen, 4}}});
  CHECK_THAT(refusal(scratch / "nothing", model), Catch::Contains("no data at"));
  write_bytes(scratch / "story.txt", "Once upon a time");
  CHECK_THAT(refusal(scratch / "story.txt", model), Catch::Contains("not tokenized here"));
  write_bytes(scratch / "x.bin", "abcdefgh");
  CHECK_THAT(refusal(scratch / "x.bin", model), Catch::Contains("a folder of images, .npz"));
  write_bytes(scratch / "x.json", "{\"npz\": [}");
  CHECK_FALSE(refusal(scratch / "x.json", model).empty());
  CHECK_THAT(refusal("/dev/null", model), Catch::Contains("neither a file nor a folder"));
}

TEST_CASE("random data: seeded, marked as such") {
  const Model model =
      taking({{"x", DType::float32, {kOpen, 4}}, {"ids", DType::int64, {kOpen, 3}}});
  const auto a = random_dataset(model, 3, 5), b = random_dataset(model, 3, 5);
  const auto c = random_dataset(model, 3, 6);
  CHECK(same_content(a->get(1).inputs[0].tensor, b->get(1).inputs[0].tensor));
  CHECK_FALSE(same_content(a->get(1).inputs[0].tensor, a->get(0).inputs[0].tensor));
  CHECK_FALSE(same_content(a->get(1).inputs[0].tensor, c->get(0).inputs[0].tensor));
  CHECK_THAT(a->description(), Catch::Contains("random noise"));
}

TEST_CASE("evenly spaced, never the first") {
  CHECK(evenly_spaced(10, 3) == std::vector<int64_t>{1, 5, 8});
  CHECK(evenly_spaced(3, 10) == std::vector<int64_t>{0, 1, 2});
  CHECK(evenly_spaced(5, 0).empty());
  CHECK(evenly_spaced(0, 5).empty());
  const auto many = evenly_spaced(500, 62);
  CHECK(many.size() == 62);
  for (size_t i = 0; i < many.size(); ++i) {
    CHECK(many[i] == static_cast<int64_t>((2 * i + 1) * 500 / 124));
  }
}

}  // namespace compress
