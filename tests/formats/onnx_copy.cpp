// onnx_copy IN OUT OPSET EXTERNAL: reads a model and writes it; for roundtrip.py. OPSET 0 keeps it.
#include <cstdlib>
#include <iostream>

#include "compress/error.h"
#include "formats/onnx.h"

int main(int count, char** arguments) {
  if (count != 5) return 2;
  try {
    compress::Model model = compress::read_onnx(arguments[1]);
    const int opset = std::atoi(arguments[3]);
    if (opset > model.opset()) compress::convert_opset(model, opset);
    compress::WriteOptions options;
    options.overwrite = true;
    options.external_data = std::atoi(arguments[4]) != 0;
    compress::write_onnx(model, arguments[2], options);
  } catch (const compress::Error& error) {
    std::cerr << "error: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
