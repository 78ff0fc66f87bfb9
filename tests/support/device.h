#pragma once

// Copies of host problems in GPU memory, so that the suites that loop over backends serve the cuda
// backend as well. Without the backend, or without a GPU for it, placed() and OnDevice are not
// used.

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "flexprefill/flexprefill.h"

namespace flexprefill::test {

// Whether the backend takes problems in GPU memory.
bool runs_on_gpu(const Backend& backend);

// Why no test can run on this backend on this machine (no GPU); empty = tests run.
std::string machine_why_not(const Backend& backend);

// The problem as it would look in the backend's memory: the devices of the views change, nothing
// else.
AttentionProblem placed(const Backend& backend, AttentionProblem problem);

class DeviceMemory;  // device_memory.h; not there without CUDA

// A part of GPU memory that is filled with NaN, with a guard band on both sides.
class DeviceBuffer {
 public:
  explicit DeviceBuffer(size_t bytes);
  // Also copies [host, host + bytes) in, at an address that is as aligned as `host`, up to 256.
  DeviceBuffer(const void* host, size_t bytes);
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  void download(void* host) const;
  bool guards_untouched() const;

 private:
  DeviceBuffer(size_t bytes, size_t misalignment);

  size_t bytes_;
  std::shared_ptr<const DeviceMemory> memory_;
  std::byte* data_ = nullptr;
};

// Problems and masks in GPU memory. Tensors keep their strides; around them lies NaN.
class OnDevice {
 public:
  OnDevice(std::span<const AttentionProblem> problems, std::span<const BlockMask> masks);

  std::span<const AttentionProblem> problems() const { return problems_; }
  std::span<const BlockMask> masks() const { return masks_; }

  // Copies out and lse to the host tensors; fails the test if a byte around any tensor changed, or
  // one of an input.
  void download() const;

 private:
  struct Copy {
    std::unique_ptr<DeviceBuffer> buffer;
    void* host;
    bool output;
  };
  void* add(const void* host, size_t bytes, bool output);
  HeadView add(const HeadView& view, bool output);
  KvView add(const KvView& kv);

  std::vector<Copy> copies_;
  std::vector<AttentionProblem> problems_;
  std::vector<BlockMask> masks_;
};

// A stream of its own, which does not wait for the default one.
class Stream {
 public:
  Stream();
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  void* get() const { return stream_; }
  void wait() const;

 private:
  void* stream_ = nullptr;
};

}  // namespace flexprefill::test
