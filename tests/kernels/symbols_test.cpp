// A template or inline function shared with a file built for a newer instruction set can become the
// copy that the linker keeps for everybody, and then crash older CPUs. So those files may not emit
// a weak symbol at all.
#include <array>
#include <catch2/catch.hpp>
#include <cstdio>
#include <string>

namespace {

std::string output_of(const std::string& command) {
  std::string out;
  FILE* pipe = popen(command.c_str(), "r");
  REQUIRE(pipe != nullptr);
  std::array<char, 4096> buffer;
  while (size_t got = fread(buffer.data(), 1, buffer.size(), pipe)) out.append(buffer.data(), got);
  REQUIRE(pclose(pipe) == 0);
  return out;
}

TEST_CASE("no weak symbol leaks out of a file with ISA flags") {
  const std::string symbols = output_of("nm -C " COMPRESS_KERNELS_ARCHIVE);
  std::string member;
  int isa_files = 0;
  size_t start = 0;
  while (start < symbols.size()) {
    const size_t end = symbols.find('\n', start);
    const std::string line = symbols.substr(start, end - start);
    start = end + 1;
    if (line.ends_with(".o:")) {
      member = line.find("_avx") != std::string::npos ? line : "";
      isa_files += !member.empty();
    } else if (!member.empty() && line.size() > 18) {
      const char kind = line[17];
      CAPTURE(member, line);
      CHECK((kind != 'W' && kind != 'V' && kind != 'u'));
    }
  }
  CHECK(isa_files >= 2);
}

}  // namespace
