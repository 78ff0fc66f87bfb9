#include "tests/fuzz/allocation_meter.h"

#include <malloc.h>

#include <algorithm>
#include <cstdlib>
#include <new>

namespace {

// Tests run on one thread; nothing else allocates while a file is read.
size_t g_held = 0;
size_t g_peak = 0;

void* allocate_or_null(size_t bytes) noexcept {
  void* memory = std::malloc(std::max<size_t>(bytes, 1));
  if (memory != nullptr) g_held += malloc_usable_size(memory);
  g_peak = std::max(g_peak, g_held);
  return memory;
}

void* allocate(size_t bytes) {
  void* memory = allocate_or_null(bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

void release(void* memory) {
  if (memory == nullptr) return;
  g_held -= malloc_usable_size(memory);
  std::free(memory);
}

}  // namespace

void* operator new(size_t bytes) { return allocate(bytes); }
void* operator new[](size_t bytes) { return allocate(bytes); }
// std::stable_sort asks this way. A sanitizer's own would not match the delete below.
void* operator new(size_t bytes, const std::nothrow_t&) noexcept { return allocate_or_null(bytes); }
void* operator new[](size_t bytes, const std::nothrow_t&) noexcept {
  return allocate_or_null(bytes);
}
void operator delete(void* memory) noexcept { release(memory); }
void operator delete[](void* memory) noexcept { release(memory); }
void operator delete(void* memory, size_t) noexcept { release(memory); }
void operator delete[](void* memory, size_t) noexcept { release(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { release(memory); }
void operator delete[](void* memory, const std::nothrow_t&) noexcept { release(memory); }

namespace flexprefill::runtime {

AllocationMeter::AllocationMeter() : held_before_(g_held) { g_peak = g_held; }

size_t AllocationMeter::peak_bytes() const { return g_peak - held_before_; }

}  // namespace flexprefill::runtime
