#include "formats/arrays.h"

#include <algorithm>
#include <catch2/catch.hpp>

#include "compress/error.h"
#include "tests/formats/scratch.h"

namespace compress {
namespace {

constexpr const char* kMakeData = COMPRESS_SOURCE_DIR "/tests/formats/make_data.py";

std::string npy(std::string_view dictionary, std::string_view data, char version = 1) {
  std::string header(dictionary);
  header += '\n';
  std::string out = "\x93NUMPY";
  out += version;
  out += '\0';
  out += static_cast<char>(header.size() & 0xFF);
  out += static_cast<char>(header.size() >> 8);
  if (version > 1) out += std::string(2, '\0');
  return out + header + std::string(data);
}

// The message of the error that reading `bytes` as .npy gives; "" where there is none.
std::string refusal(const std::string& bytes) {
  const Scratch scratch;
  write_bytes(scratch / "x.npy", bytes);
  try {
    read_npy(scratch / "x.npy");
    return "";
  } catch (const Error& error) {
    CHECK(error.code() != ErrorCode::internal);
    CHECK_THAT(error.what(), Catch::Contains("x.npy"));
    return error.what();
  }
}

std::vector<NamedTensor> some_arrays() {
  return {{"a", Tensor::from<float>({2, 3}, {1, 2, 3, 4, 5, 6})},
          {"/odd name/min", Tensor::from<int64_t>({1}, {-7})},
          {"empty", Tensor::allocate(DType::uint8, {0, 4})},
          {"scalar", Tensor::scalar<double>(0.25)},
          {"flags", Tensor::from<bool>({3}, {true, false, true})}};
}

}  // namespace

TEST_CASE("npy: header spellings") {
  const std::string two(8, '\0');
  CHECK(refusal(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", two)).empty());
  CHECK(refusal(npy("{\"shape\":(2,),\"descr\":\"<f4\",\"fortran_order\":False}", two)).empty());
  for (const char version : {2, 3}) {
    CHECK(refusal(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }", two, version))
              .empty());
  }
  const auto broken = [&](const char* dictionary, const char* reason) {
    INFO(dictionary);
    CHECK_THAT(refusal(npy(dictionary, two)), Catch::Contains(reason));
  };
  broken("{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }", "needs 12 bytes, 8 follow");
  broken("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", "needs 4 bytes, 8 follow");
  broken("{'descr': '<f4', 'fortran_order': False, 'shape': (2), }", "plain dictionary");
  broken("{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }", "plain dictionary");
  broken("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)} + 1", "plain dictionary");
  broken("{'descr': '<f4', 'fortran_order': 0, 'shape': (2,)}", "plain dictionary");
  broken("{'descr': '<f4', 'fortran_order': False}", "missing");
  broken("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", "twice");
  broken("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'x': 'y'}", "unknown key");
  broken("{'descr': '<c8', 'fortran_order': False, 'shape': (1,)}", "'<c8' is not read");
  broken("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", "'|O' is not read");
  broken("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,)}", "structured");
  broken("{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,)}",
         "follow the header");
  broken("{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4)}", "");
  broken("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999999,)}", "absurd");
  broken("{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1,1,1,1,1,2)}", "");
  CHECK_THAT(refusal(npy("{}", two, 9)), Catch::Contains("version 9.0"));
  CHECK_THAT(refusal("PK"), Catch::Contains("not a .npy"));
  const std::string whole = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", two);
  for (size_t size = 0; size < whole.size(); ++size) {
    INFO("cut to " << size);
    CHECK_FALSE(refusal(whole.substr(0, size)).empty());
  }
}

TEST_CASE("npy: booleans are 0 or 1 whatever the file holds") {
  const Scratch scratch;
  write_bytes(scratch / "b.npy",
              npy("{'descr': '|b1', 'fortran_order': False, 'shape': (3,), }", "\x02\x01\x80"));
  const TensorData data = read_npy(scratch / "b.npy").read();
  CHECK(std::ranges::equal(data.bytes(), std::vector(3, std::byte{1})));
}

TEST_CASE("arrays that NumPy wrote: stored, deflated, big-endian, column-major") {
  const Scratch scratch;
  if (!run_python(kMakeData, scratch.path())) return;
  const NpzReader stored(scratch / "stored.npz");
  CHECK(stored.names().size() == 14);
  CHECK(stored.read("uint64").dtype() == DType::uint64);
  CHECK(stored.read("scalar").to_double() == 2.5);
  CHECK(stored.read("bool").to_ints() == std::vector<int64_t>{1, 0, 1});
  CHECK(stored.read("empty").shape() == Shape{0, 3});
  for (const char* other : {"deflated.npz", "swapped.npz", "fortran.npz"}) {
    const NpzReader reader(scratch / other);
    CHECK(reader.names() == stored.names());
    for (const std::string& name : stored.names()) {
      INFO(other << " " << name);
      if (name == "scalar" && reader.read(name).shape().rank() == 1) continue;  // asfortranarray
      CHECK(same_content(reader.read(name), stored.read(name)));
    }
  }
  CHECK(same_content(read_npy(scratch / "float32.npy"), stored.read("float32")));
  CHECK_THROWS_WITH(read_npy(scratch / "text.npy"), Catch::Contains("is not read"));
  CHECK_THROWS_WITH(read_npy(scratch / "complex.npy"), Catch::Contains("is not read"));
}

TEST_CASE("NumPy reads what we write, and we read it back mapped") {
  const Scratch scratch;
  write_npz(scratch / "a.npz", some_arrays(), false, {{"header.json", "{\"x\": 1}"}});
  write_npz(scratch / "b.npz", some_arrays(), false, {{"header.json", "{\"x\": 1}"}});
  CHECK(read_all(scratch / "a.npz") == read_all(scratch / "b.npz"));
  CHECK_THROWS_AS(write_npz(scratch / "a.npz", {}, false), Error);
  const NpzReader reader(scratch / "a.npz");
  CHECK(reader.names() ==
        std::vector<std::string>{"a", "/odd name/min", "empty", "scalar", "flags"});
  CHECK(reader.read_bytes("header.json") == "{\"x\": 1}");
  for (const NamedTensor& array : some_arrays()) {
    CHECK(reader.has(array.name));
    CHECK(same_content(reader.read(array.name), array.tensor));
  }
  // Mapped, not copied: reading twice gives the same address.
  CHECK(reader.read("a").identity() == reader.read("a").identity());
  CHECK_FALSE(reader.has("b"));
  CHECK_THROWS_WITH(reader.read("b"), Catch::Contains("'b.npy'"));

  write_npy(scratch / "a.npy", some_arrays()[0].tensor);
  CHECK(same_content(read_npy(scratch / "a.npy"), some_arrays()[0].tensor));
  Tensor half = convert(Tensor::from<float>({2}, {1.5f, -2}), DType::bfloat16);
  write_npy(scratch / "half.npy", half);
  CHECK(read_npy(scratch / "half.npy").to_doubles() == std::vector<double>{1.5, -2});

  write_bytes(scratch / "check.py",
              "import sys, numpy as np\n"
              "z = np.load(sys.argv[1] + '/a.npz')\n"
              "assert z['a'].tolist() == [[1, 2, 3], [4, 5, 6]]\n"
              "assert z['/odd name/min'].tolist() == [-7] and z['empty'].shape == (0, 4)\n"
              "assert z['scalar'].shape == () and z['scalar'] == 0.25\n"
              "assert z['flags'].tolist() == [True, False, True]\n"
              "assert np.load(sys.argv[1] + '/a.npy').sum() == 21\n"
              "import zipfile\n"
              "assert zipfile.ZipFile(sys.argv[1] + '/a.npz').testzip() is None\n");
  run_python(scratch / "check.py", scratch.path());
}

TEST_CASE("npz: damaged archives are refused, never read wrongly") {
  const Scratch scratch;
  write_npz(scratch / "a.npz", some_arrays(), false);
  std::vector<std::string> wholes = {read_all(scratch / "a.npz")};
  if (run_python(kMakeData, scratch.path())) wholes.push_back(read_all(scratch / "deflated.npz"));
  const auto read_everything = [&](const std::string& bytes) {
    write_bytes(scratch / "x.npz", bytes);
    const NpzReader reader(scratch / "x.npz");
    std::vector<Tensor> all;
    for (const std::string& name : reader.names()) all.push_back(reader.read(name));
    return all;
  };
  for (const std::string& whole : wholes) {
    const std::vector<Tensor> good = read_everything(whole);
    for (size_t size = 0; size < whole.size(); size += 1 + whole.size() / 199) {
      INFO("cut to " << size << " of " << whole.size());
      CHECK_THROWS_AS(read_everything(whole.substr(0, size)), Error);
    }
    int refused = 0;
    for (size_t at = 0; at < whole.size(); at += 3) {
      std::string damaged = whole;
      damaged[at] = static_cast<char>(damaged[at] ^ 0x11);
      try {
        // Names, times and paddings may change unnoticed; contents may not.
        const std::vector<Tensor> read = read_everything(damaged);
        for (size_t i = 0; i < read.size() && read.size() == good.size(); ++i) {
          INFO("byte " << at);
          REQUIRE(same_content(read[i], good[i]));
        }
      } catch (const Error& error) {
        CHECK(error.code() != ErrorCode::internal);
        ++refused;
      }
    }
    CHECK(refused > static_cast<int>(whole.size()) / 9);
  }
}

TEST_CASE("npz: limits") {
  const Scratch scratch;
  write_npz(scratch / "a.npz", {{"a", Tensor::zeros(DType::uint8, {4096})}}, false);
  CHECK_THROWS_WITH(NpzReader(scratch / "a.npz", 1000).read("a"), Catch::Contains("limit of 1000"));
  CHECK_THROWS_AS(NpzReader(scratch / "missing.npz"), Error);
}

TEST_CASE("IDX, plain and compressed") {
  const Scratch scratch;
  const std::string idx("\0\0\x0B\x02\0\0\0\x02\0\0\0\x01\x01\x02\xFF\xFE", 16);
  write_bytes(scratch / "x.idx", idx);
  const Tensor tensor = read_idx(scratch / "x.idx");
  CHECK(tensor.shape() == Shape{2, 1});
  CHECK(tensor.dtype() == DType::int16);
  CHECK(tensor.to_ints() == std::vector<int64_t>{258, -2});
  for (size_t size = 0; size < idx.size(); ++size) {
    write_bytes(scratch / "cut.idx", std::string_view(idx).substr(0, size));
    CHECK_THROWS_AS(read_idx(scratch / "cut.idx"), Error);
  }
  write_bytes(scratch / "long.idx", idx + "x");
  CHECK_THROWS_AS(read_idx(scratch / "long.idx"), Error);
  // 2^32 - 1 elements a dimension, from 12 bytes.
  write_bytes(scratch / "bomb.idx",
              std::string("\0\0\x0E\x02\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", 12));
  CHECK_THROWS_AS(read_idx(scratch / "bomb.idx"), Error);
  REQUIRE(std::system(("gzip -k '" + (scratch / "x.idx") + "'").c_str()) == 0);
  CHECK(same_content(read_idx(scratch / "x.idx.gz"), tensor));
  const std::string packed = read_all(scratch / "x.idx.gz");
  for (size_t size = 3; size < packed.size() - 8; ++size) {
    write_bytes(scratch / "cut.gz", std::string_view(packed).substr(0, size));
    CHECK_THROWS_AS(read_idx(scratch / "cut.gz"), Error);
  }
}

TEST_CASE("CSV: quotes, line ends, shapes") {
  const Scratch scratch;
  const auto read = [&](std::string_view text) {
    write_bytes(scratch / "x.csv", text);
    return read_csv(scratch / "x.csv");
  };
  using Row = std::vector<std::string>;
  const Csv csv = read(
      "\xEF\xBB\xBF"
      "file,label\r\n\"a,b \"\"c\"\"\",1\r\n\"two\nlines\",\n\nlast,3");
  CHECK(csv.header == Row{"file", "label"});
  REQUIRE(csv.rows.size() == 3);
  CHECK(csv.rows[0] == Row{"a,b \"c\"", "1"});
  CHECK(csv.rows[1] == Row{"two\nlines", ""});
  CHECK(csv.rows[2] == Row{"last", "3"});
  CHECK_THROWS_WITH(read("a,b\n1,2\n3\n"), Catch::Contains("record 3 has 1 fields, not 2"));
  CHECK_THROWS_WITH(read("a\n\"open"), Catch::Contains("not closed"));
  CHECK_THROWS_WITH(read("a\n\"x\"y\n"), Catch::Contains("after a quoted field"));
  CHECK_THROWS_WITH(read(""), Catch::Contains("empty"));
}

}  // namespace compress
