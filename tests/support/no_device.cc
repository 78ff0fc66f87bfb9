// Builds without the cuda backend: nothing lies on a GPU, and nothing below is reached.

#include <cassert>

#include "tests/support/device.h"

namespace flexprefill::test {

bool runs_on_gpu(const Backend&) { return false; }
std::string machine_why_not(const Backend&) { return ""; }
AttentionProblem placed(const Backend&, AttentionProblem problem) { return problem; }

DeviceBuffer::DeviceBuffer(size_t bytes) : bytes_(bytes) { assert(false); }
void DeviceBuffer::download(void*) const {}
bool DeviceBuffer::guards_untouched() const { return false; }
OnDevice::OnDevice(std::span<const AttentionProblem>, std::span<const BlockMask>) { assert(false); }
void OnDevice::download() const {}
Stream::Stream() = default;
Stream::~Stream() = default;
void Stream::wait() const {}

}  // namespace flexprefill::test
