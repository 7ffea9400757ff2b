#include "formats/file.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "compress/core/mapped_pages.h"
#include "compress/error.h"

namespace compress {
namespace {

namespace fs = std::filesystem;

struct Scratch {
  fs::path folder;
  Scratch() {
    std::string name = (fs::temp_directory_path() / "compress-test-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    folder = name;
  }
  ~Scratch() { fs::remove_all(folder); }
  std::string path(const std::string& name) const { return (folder / name).string(); }
  void write(const std::string& name, std::string_view text) const {
    std::ofstream(folder / name, std::ios::binary) << text;
  }
  size_t entries() const {
    return static_cast<size_t>(
        std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
  }
};

template <class Body>
std::string error_of(Body&& body) {
  try {
    body();
  } catch (const Error& error) {
    const std::string line = error.what();
    CHECK(line.find('\n') == std::string::npos);
    return line;
  }
  return "no error";
}

// Runs `body` in a child that must end by `body` alone; returns the wait status.
template <class Body>
int in_child(Body&& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    body();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return status;
}

}  // namespace

TEST_CASE("mapped files: regular ones only, empty ones too") {
  const Scratch scratch;
  scratch.write("a", "hello");
  scratch.write("empty", "");
  CHECK(MappedFile::open(scratch.path("a"))->text() == "hello");
  CHECK(MappedFile::open(scratch.path("empty"))->text().empty());
  CHECK_THAT(error_of([&] { MappedFile::open(scratch.path("none")); }),
             Catch::Contains("No such file"));
  CHECK_THAT(error_of([&] { MappedFile::open(scratch.folder.string()); }),
             Catch::Contains("is a directory"));
  REQUIRE(::mkfifo(scratch.path("fifo").c_str(), 0600) == 0);
  CHECK_THAT(error_of([&] { MappedFile::open(scratch.path("fifo")); }),
             Catch::Contains("not a regular file"));
  CHECK_THAT(error_of([&] { MappedFile::open("/dev/zero"); }),
             Catch::Contains("not a regular file"));
  CHECK(read_file(scratch.path("a"), 5) == "hello");
  CHECK_THROWS_AS(read_file(scratch.path("a"), 4), Error);
}

TEST_CASE("paths beneath a folder do not leave it") {
  const Scratch scratch;
  fs::create_directories(scratch.folder / "model" / "sub");
  scratch.write("secret", "secret");
  scratch.write("model/data", "data");
  scratch.write("model/sub/data", "below");
  fs::create_symlink("../secret", scratch.folder / "model" / "link");
  fs::create_directory_symlink("sub", scratch.folder / "model" / "folder_link");
  fs::create_hard_link(scratch.folder / "secret", scratch.folder / "model" / "hard");
  const std::string folder = scratch.path("model");
  const auto open = [&](const std::string& path) {
    return error_of([&] { MappedFile::open_beneath(folder, path); });
  };
  CHECK(MappedFile::open_beneath(folder, "data")->text() == "data");
  CHECK(MappedFile::open_beneath(folder, "./data")->text() == "data");
  CHECK(MappedFile::open_beneath(folder, "sub/data")->text() == "below");
  CHECK_THAT(open("../secret"), Catch::Contains("leaves"));
  CHECK_THAT(open("sub/../../secret"), Catch::Contains("leaves"));
  CHECK_THAT(open(scratch.path("secret")), Catch::Contains("absolute"));
  CHECK_THAT(open("link"), Catch::Contains("symbolic link"));
  CHECK_THAT(open("folder_link/data"), Catch::Contains("external data"));
  CHECK_THAT(open("hard"), Catch::Contains("hard link"));
  CHECK_THAT(open("sub"), Catch::Contains("regular"));
  CHECK_THAT(open(std::string("data\0x", 6)), Catch::Contains("NUL"));
  for (const char* path : {"", ".", "./", "data/", "none"}) {
    INFO(path);
    CHECK(open(path) != "no error");
  }
}

TEST_CASE("dropping pages leaves the bytes of files and of other memory") {
  const Scratch scratch;
  const std::string text(1 << 20, 'x');
  scratch.write("a", text);
  const auto file = MappedFile::open(scratch.path("a"));
  CHECK(file->text() == text);
  drop_mapped_pages(file->bytes());
  CHECK(file->text() == text);
  std::vector<std::byte> own(1 << 20, std::byte{7});
  drop_mapped_pages(own);
  CHECK(own == std::vector<std::byte>(1 << 20, std::byte{7}));
}

TEST_CASE("an atomic file appears whole on commit, and not at all without") {
  const Scratch scratch;
  const std::string path = scratch.path("out");
  {
    AtomicFile file(path, false);
    file.write("abc");
    CHECK(!fs::exists(path));
  }
  CHECK(scratch.entries() == 0);
  const std::string large(3 << 20, 'y');
  {
    AtomicFile file(path, false);
    file.write("head");
    file.write(large);
    file.write("tail");
    CHECK(file.size() == large.size() + 8);
    file.flush();
    CHECK(read_file(file.temporary_path(), 1 << 30) == "head" + large + "tail");
    file.commit();
  }
  CHECK(read_file(path, 1 << 30) == "head" + large + "tail");
  CHECK(scratch.entries() == 1);
}

TEST_CASE("an existing file is replaced only when told to") {
  const Scratch scratch;
  scratch.write("out", "old");
  const std::string path = scratch.path("out");
  CHECK_THAT(error_of([&] { AtomicFile(path, false); }), Catch::Contains("exists already"));
  {
    AtomicFile file(path, true);
    file.write("new");
    CHECK(read_file(path, 99) == "old");
    file.commit();
  }
  CHECK(read_file(path, 99) == "new");
  // It appears while we write: still not replaced.
  AtomicFile late(scratch.path("late"), false);
  scratch.write("late", "theirs");
  CHECK_THAT(error_of([&] { late.commit(); }), Catch::Contains("exists already"));
  CHECK(read_file(scratch.path("late"), 99) == "theirs");
}

TEST_CASE("targets that cannot be are refused in one line") {
  const Scratch scratch;
  scratch.write("file", "");
  CHECK_THAT(error_of([&] { AtomicFile(scratch.path("none/out"), true); }),
             Catch::Contains("No such file"));
  CHECK_THAT(error_of([&] { AtomicFile(scratch.folder.string(), true); }),
             Catch::Contains("directory"));
  CHECK_THAT(error_of([&] { AtomicFile(scratch.folder.string() + "/", true); }),
             Catch::Contains("directory"));
  CHECK(error_of([&] { AtomicFile(scratch.path("file/out"), true); }) != "no error");
  CHECK_THAT(error_of([&] { AtomicFile("/dev/null", true); }),
             Catch::Contains("not a regular file"));
  CHECK(scratch.entries() == 1);
}

TEST_CASE("a full disk is an error and leaves the old file") {
  const Scratch scratch;
  scratch.write("out", "old");
  // RLIMIT_FSIZE with SIGXFSZ ignored gives EFBIG at the write, as a full disk gives ENOSPC.
  const int status = in_child([&] {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{1 << 20, 1 << 20};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    try {
      AtomicFile file(scratch.path("out"), true);
      file.write(std::string(4 << 20, 'z'));
      file.commit();
    } catch (const Error&) {
      ::_exit(3);
    }
  });
  CHECK(WEXITSTATUS(status) == 3);
  CHECK(read_file(scratch.path("out"), 99) == "old");
  CHECK(scratch.entries() == 1);
}

TEST_CASE("a killed writer leaves the old file; the next one removes its temporary") {
  const Scratch scratch;
  scratch.write("out", "old");
  const int status = in_child([&] {
    AtomicFile file(scratch.path("out"), true);
    file.write(std::string(2 << 20, 'z'));
    file.flush();
    ::raise(SIGKILL);
  });
  CHECK(WIFSIGNALED(status));
  CHECK(read_file(scratch.path("out"), 99) == "old");
  CHECK(scratch.entries() == 2);
  // One that is alive keeps its temporary while the other's is removed.
  AtomicFile alive(scratch.path("other"), false);
  alive.write("whole");
  CHECK(scratch.entries() == 2);
  AtomicFile next(scratch.path("out"), true);
  next.write("new");
  next.commit();
  alive.commit();
  CHECK(read_file(scratch.path("out"), 99) == "new");
  CHECK(read_file(scratch.path("other"), 99) == "whole");
  CHECK(scratch.entries() == 2);
}

TEST_CASE("a signal handler can remove the temporaries") {
  const Scratch scratch;
  const int status = in_child([&] {
    ::signal(SIGTERM, [](int) {
      remove_temporaries();
      ::_exit(143);
    });
    AtomicFile file(scratch.path("out"), false);
    file.write("abc");
    file.flush();
    ::raise(SIGTERM);
  });
  CHECK(WEXITSTATUS(status) == 143);
  CHECK(scratch.entries() == 0);
}

TEST_CASE("the hash of a file is the hash of its bytes") {
  const Scratch scratch;
  scratch.write("abc", "abc");
  // FIPS 180-4, the example of one block
  CHECK(sha256_file(scratch.path("abc")) ==
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  const std::string large((16 << 20) + 5, 'q');
  scratch.write("large", large);
  CHECK(sha256_file(scratch.path("large")) == sha256(std::as_bytes(std::span(large))));
}

}  // namespace compress
