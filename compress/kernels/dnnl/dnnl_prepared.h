// Shared by the files of this folder: the engine, prepared primitives, reorders.
#pragma once

#include <cstring>
#include <oneapi/dnnl/dnnl.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "compress/kernels/aligned.h"
#include "compress/kernels/dnnl/dnnl_adapter.h"
#include "compress/kernels/isa.h"

namespace compress::kernels {
using dnnl::memory;
using Tag = memory::format_tag;

constexpr auto kFloat = memory::data_type::f32;

inline size_t aligned(size_t bytes) {
  return static_cast<size_t>(round_up(static_cast<int64_t>(bytes), kAlignment));
}

// The engine, with what COMPRESS_ISA forces set before oneDNN does anything.
inline const dnnl::engine& cpu_engine() {
  static const dnnl::engine engine = [] {
    const IsaChoice& choice = isa_choice();
    if (choice.forced) {
      struct Cap {
        const char* name;
        dnnl::cpu_isa isa;
      };
      constexpr Cap kCaps[] = {{"ref", dnnl::cpu_isa::sse41},
                               {"avx2", dnnl::cpu_isa::avx2},
                               {"avx512", dnnl::cpu_isa::avx512_core},
                               {"avx512vnni", dnnl::cpu_isa::avx512_core_vnni}};
      for (const Cap& cap : kCaps) {
        if (std::strcmp(cap.name, choice.name) == 0) dnnl::set_max_cpu_isa(cap.isa);
      }
    }
    return dnnl::engine(dnnl::engine::kind::cpu, 0);
  }();
  return engine;
}

inline const dnnl::stream& cpu_stream() {
  static const dnnl::stream stream(cpu_engine());
  return stream;
}

inline void append_clamp(dnnl::post_ops& ops, const ClampF32& clamp) {
  const ClampF32 none;
  if (clamp.lo == 0.0f && clamp.hi == none.hi) {
    ops.append_eltwise(1.0f, dnnl::algorithm::eltwise_relu, 0.0f, 0.0f);
  } else if (clamp.lo != none.lo || clamp.hi != none.hi) {
    ops.append_eltwise(1.0f, dnnl::algorithm::eltwise_clip, clamp.lo, clamp.hi);
  }
}

// A prepared primitive and its arguments; run() only changes where the arguments point.
class Prepared {
 public:
  static constexpr int kScratchpad = DNNL_ARG_SCRATCHPAD;

  template <class Descriptor>
  explicit Prepared(const Descriptor& description)
      : implementation_(description.impl_info_str()),
        workspace_bytes_(description.scratchpad_desc().get_size()),
        primitive_(description.get()) {
    add(kScratchpad, description.scratchpad_desc());
  }

  void add(int argument, const memory::desc& description) {
    add(argument, memory(description, cpu_engine(), DNNL_MEMORY_NONE));
  }
  void add(int argument, memory value) {
    memories_.push_back(std::move(value));
    arguments_.push_back({argument, memories_.back().get()});
  }
  void point(int argument, const void* data) noexcept {
    for (size_t i = 0; i < arguments_.size(); ++i) {
      if (arguments_[i].arg == argument) {
        dnnl_memory_set_data_handle(memories_[i].get(), const_cast<void*>(data));
      }
    }
  }
  // The C function: the C++ one builds a map of the arguments.
  void run(void* workspace) noexcept {
    point(kScratchpad, workspace);
    dnnl_primitive_execute(primitive_.get(), cpu_stream().get(),
                           static_cast<int>(arguments_.size()), arguments_.data());
  }

  size_t workspace_bytes() const { return workspace_bytes_; }
  const char* implementation() const { return implementation_.c_str(); }

 private:
  std::string implementation_;
  size_t workspace_bytes_;
  dnnl::primitive primitive_;
  std::vector<memory> memories_;
  std::vector<dnnl_exec_arg_t> arguments_;
};

inline std::optional<Prepared> make_reorder(const memory::desc& from, const memory::desc& to) {
  if (from == to) return std::nullopt;
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  Prepared reorder(dnnl::reorder::primitive_desc(cpu_engine(), from, cpu_engine(), to, attr));
  reorder.add(DNNL_ARG_FROM, from);
  reorder.add(DNNL_ARG_TO, to);
  return reorder;
}

inline void run_reorder(Prepared& reorder, const void* from, void* to, void* workspace) noexcept {
  reorder.point(DNNL_ARG_FROM, from);
  reorder.point(DNNL_ARG_TO, to);
  reorder.run(workspace);
}

}  // namespace compress::kernels
