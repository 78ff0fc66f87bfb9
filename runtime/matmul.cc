#include "runtime/matmul.h"

#include <omp.h>

#include <dnnl.hpp>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <unordered_map>

#include "flexprefill/error.h"
#include "runtime/thread_scope.h"

namespace flexprefill::runtime {
namespace {

using dnnl::memory;

// The layout of a weight is chosen for this many rows and used for every number of rows.
constexpr int64_t kLayoutRows = 512;

const dnnl::engine& cpu_engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

memory::data_type dnnl_type(DType dtype) {
  return dtype == DType::kBF16 ? memory::data_type::bf16 : memory::data_type::f32;
}

// 3.x took the descriptor objects away; this is the only difference that reaches us.
dnnl::matmul::primitive_desc describe(const memory::desc& in, const memory::desc& weight,
                                      const memory::desc& bias, const memory::desc& out,
                                      const dnnl::primitive_attr& attributes) {
#if DNNL_VERSION_MAJOR >= 3
  return bias ? dnnl::matmul::primitive_desc(cpu_engine(), in, weight, bias, out, attributes)
              : dnnl::matmul::primitive_desc(cpu_engine(), in, weight, out, attributes);
#else
  const auto desc = bias.data.ndims != 0 ? dnnl::matmul::desc(in, weight, bias, out)
                                         : dnnl::matmul::desc(in, weight, out);
  return dnnl::matmul::primitive_desc(desc, attributes, cpu_engine());
#endif
}

memory::desc rows_desc(int64_t rows, int64_t columns, DType dtype) {
  return memory::desc({rows, columns}, dnnl_type(dtype), memory::format_tag::ab);
}

memory::desc bias_desc(int64_t n, bool has_bias) {
  return has_bias ? memory::desc({1, n}, memory::data_type::f32, memory::format_tag::ab)
                  : memory::desc();
}

// oneDNN's own errors carry a status and no shape.
template <typename Body>
auto with_context(const std::string& what, Body body) {
  try {
    return body();
  } catch (const dnnl::error& error) {
    throw Error("oneDNN cannot compute " + what + ": " + error.what());
  }
}

std::string shape_text(int64_t m, int64_t n, int64_t k) {
  return "a product [" + std::to_string(m) + ", " + std::to_string(k) + "] x [" +
         std::to_string(k) + ", " + std::to_string(n) + "] of " +
         std::string(to_string(matmul_dtype()));
}

}  // namespace

DType matmul_dtype() {
  static const DType dtype = [] {
    // Instruction sets are bit sets: every set with AVX-512 BF16 contains this one.
    constexpr auto kBf16 = static_cast<unsigned>(dnnl::cpu_isa::avx512_core_bf16);
    const auto isa = static_cast<unsigned>(dnnl::get_effective_cpu_isa());
    if ((isa & kBf16) == kBf16) return DType::kBF16;
    return DType::kF32;
  }();
  return dtype;
}

std::string matmul_library() {
  const dnnl_version_t* version = dnnl_version();
  return std::to_string(version->major) + "." + std::to_string(version->minor) + "." +
         std::to_string(version->patch);
}

struct Linear::Packed {
  Buffer rows;    // the memory of `weight` when the layout is the file's own
  memory weight;  // [k, n]
  std::vector<float> bias;
};

Linear::Linear(int64_t n, int64_t k, Buffer rows, std::vector<float> bias) : n_(n), k_(k) {
  auto packed = std::make_shared<Packed>();
  with_context(shape_text(kLayoutRows, n, k), [&] {
    const DType dtype = matmul_dtype();
    const memory::desc any({k, n}, dnnl_type(dtype), memory::format_tag::any);
    const auto preferred =
        describe(rows_desc(kLayoutRows, k, dtype), any, bias_desc(n, !bias.empty()),
                 rows_desc(kLayoutRows, n, DType::kF32), {})
            .weights_desc();
    // A weight [n, k] row by row is a matrix [k, n] column by column.
    const memory::desc as_stored({k, n}, dnnl_type(dtype), memory::format_tag::ba);
    memory stored(as_stored, cpu_engine(), rows.data());
    packed->bias = std::move(bias);
    if (preferred == as_stored) {
      packed->weight = stored;
      packed->rows = std::move(rows);
      return;
    }
    packed->weight = memory(preferred, cpu_engine());
    dnnl::stream stream(cpu_engine());
    dnnl::reorder(stored, packed->weight).execute(stream, stored, packed->weight);
    stream.wait();
  });
  packed_ = std::move(packed);
}

int64_t Linear::bytes() const {
  return static_cast<int64_t>(packed_->weight.get_desc().get_size() +
                              packed_->bias.size() * sizeof(float));
}

struct Matmul::Impl {
  // m, n, k, bias, accumulate, inside a parallel region
  using Shape = std::tuple<int64_t, int64_t, int64_t, bool, bool, bool>;

  struct Compiled {
    dnnl::matmul primitive;
    memory::desc scratchpad;
  };

  // Weights of the same shape have the same layout (Linear chooses by shape alone). The caller
  // holds `mutex`.
  const Compiled& compiled(const Shape& shape, const memory::desc& weight) {
    const auto found = primitives.find(shape);
    if (found != primitives.end()) return found->second;
    if (primitives.size() >= kMaxPrimitives) primitives.clear();
    const auto& [m, n, k, has_bias, accumulate, in_parallel] = shape;
    // oneDNN divides the work among the threads there are when it compiles: inside a parallel
    // region that must be one.
    const ThreadScope threads(in_parallel ? 1 : 0);
    dnnl::primitive_attr attributes;
    // The library's own scratchpad is not made for concurrent products.
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (accumulate) {
      dnnl::post_ops sum;
      sum.append_sum(1.0f);
      attributes.set_post_ops(sum);
    }
    const auto description =
        describe(rows_desc(m, k, matmul_dtype()), weight, bias_desc(n, has_bias),
                 rows_desc(m, n, DType::kF32), attributes);
    return primitives
        .emplace(shape, Compiled{dnnl::matmul(description), description.scratchpad_desc()})
        .first->second;
  }

  // Sessions that see many prompt lengths would collect a primitive for every last tile.
  static constexpr size_t kMaxPrimitives = 256;

  std::mutex mutex;
  std::map<Shape, Compiled> primitives;
};

Matmul::Matmul() : impl_(std::make_unique<Impl>()) {}
Matmul::~Matmul() = default;

void Matmul::run(const Linear& linear, const void* in, int64_t m, float* out, bool accumulate) {
  const int64_t n = linear.n();
  const int64_t k = linear.k();
  const Linear::Packed& packed = *linear.packed_;
  with_context(shape_text(m, n, k), [&] {
    const bool has_bias = !packed.bias.empty();
    const bool in_parallel = omp_in_parallel() != 0;
    const Impl::Compiled compiled = [&] {
      const std::lock_guard lock(impl_->mutex);
      return impl_->compiled({m, n, k, has_bias, accumulate, in_parallel},
                             packed.weight.get_desc());  // a copy shares the primitive
    }();
    thread_local Buffer scratchpad;  // kept: a fresh one would cost page faults in every product
    if (scratchpad.bytes() < compiled.scratchpad.get_size()) {
      scratchpad = Buffer(compiled.scratchpad.get_size(), "the scratchpad of a product");
    }
    std::unordered_map<int, memory> arguments = {
        {DNNL_ARG_SRC, memory(rows_desc(m, k, matmul_dtype()), cpu_engine(),
                              const_cast<void*>(in))},  // oneDNN has no const memory
        {DNNL_ARG_WEIGHTS, packed.weight},
        {DNNL_ARG_DST, memory(rows_desc(m, n, DType::kF32), cpu_engine(), out)},
        {DNNL_ARG_SCRATCHPAD, memory(compiled.scratchpad, cpu_engine(), scratchpad.data())}};
    if (has_bias) {
      arguments.emplace(DNNL_ARG_BIAS, memory(bias_desc(n, true), cpu_engine(),
                                              const_cast<float*>(packed.bias.data())));
    }
    dnnl::stream stream(cpu_engine());
    const ThreadScope threads(in_parallel ? 1 : 0);
    compiled.primitive.execute(stream, arguments);
    stream.wait();
  });
}

}  // namespace flexprefill::runtime
