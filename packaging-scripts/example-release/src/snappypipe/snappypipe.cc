// snappypipe: standard input to standard output as one snappy block; snappypipe -d: the way back; snappypipe --version.
#include <snappy.h>

#include <iostream>
#include <iterator>
#include <string>

static int fail(const char *what) {
  std::cerr << "snappypipe: " << what << '\n';
  return 1;
}

int main(int argc, char **argv) {
  std::ios::sync_with_stdio(false);
  const std::string mode = argc == 2 ? argv[1] : "";
  if (argc > 2 || (argc == 2 && mode != "-d" && mode != "--version"))
    return fail("usage: snappypipe [-d | --version] <INPUT >OUTPUT");
  if (mode == "--version") {
    std::cout << "snappy " << SNAPPY_MAJOR << '.' << SNAPPY_MINOR << '.' << SNAPPY_PATCHLEVEL << '\n';
    return 0;
  }

  const std::string input{std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
  std::string output;
  if (mode == "-d") {
    if (!snappy::Uncompress(input.data(), input.size(), &output)) return fail("the input is damaged");
  } else {
    snappy::Compress(input.data(), input.size(), &output);
  }
  std::cout.write(output.data(), static_cast<std::streamsize>(output.size()));
  return std::cout.flush() ? 0 : fail("cannot write");
}
