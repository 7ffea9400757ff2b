#include "compress/graph/model.h"

namespace compress {

const Function* Model::find_function(const Node& node) const {
  for (const Function& function : functions) {
    if (function.name == node.op_type && function.domain == node.domain &&
        function.overload == node.overload) {
      return &function;
    }
  }
  return nullptr;
}

}  // namespace compress
