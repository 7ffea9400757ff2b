#include "compress/runtime/common_type.h"

namespace compress {

TypeInfo common_type(const std::vector<Tensor>& contents) {
  TypeInfo type{contents[0].dtype(), true, contents[0].shape()};
  for (const Tensor& content : contents) {
    if (content.shape().rank() != type.shape.rank()) return {type.dtype, false, {}};
    for (int d = 0; d < type.shape.rank(); ++d) {
      if (content.shape()[d] != type.shape[d]) type.shape[d] = kUnknownDim;
    }
  }
  return type;
}

}  // namespace compress
