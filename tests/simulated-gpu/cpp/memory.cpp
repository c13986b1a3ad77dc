#include "memory.h"

#include <cstring>

#include <c10/core/CPUAllocator.h>

#include "addresses.h"
#include "counts.h"
#include "faults.h"
#include "settings.h"

namespace simulated {

namespace {

thread_local int on_gpu = 0;

c10::cuda::CUDACachingAllocator::CUDAAllocator* allocator() { return c10::cuda::CUDACachingAllocator::get(); }

// By the allocator's own deleter, which without caching is another one.
void release(void* host) { allocator()->raw_deleter()(addresses().to_device(host)); }

// The CPU's allocator, but kernels that run for the GPU take the GPU's memory.
struct KernelAllocator final : c10::Allocator {
    c10::Allocator* usual;
    explicit KernelAllocator(c10::Allocator* before) : usual(before) {}
    c10::DataPtr allocate(size_t bytes) override {
        return on_gpu == 0 ? usual->allocate(bytes) : allocate_for_kernel(bytes);
    }
    static void release_any(void* p) {
        if (addresses().is_host(p)) release(p);
        else c10::GetDefaultCPUAllocator()->raw_deleter()(p);
    }
    c10::DeleterFnPtr raw_deleter() const override { return &release_any; }
    void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
};

struct Install {
    Install() { c10::SetCPUAllocator(new KernelAllocator(c10::GetCPUAllocator()), 1); }
} install;

}  // namespace

c10::DataPtr allocate(size_t bytes) {
    if (bytes == 0) return allocator()->allocate(0);
    counter().count([&](Counts& counts) {
        ++counts.allocations;
        counts.allocated_bytes += static_cast<int64_t>(bytes);
    });
    // More than there can be, so that the allocator itself says that there is no room.
    size_t asked = faults().is_allocation_lost() ? settings().gpus.at(0).bytes * 4 : bytes;
    auto data = allocator()->allocate(asked);
    // Nobody may count on what new memory holds: floats are not numbers there.
    if (settings().poison) std::memset(addresses().to_host(data.get()), 0xff, bytes);
    return data;
}

c10::DataPtr allocate_for_kernel(size_t bytes) {
    auto data = allocate(bytes);
    void* host = addresses().to_host(data.release_context());
    return {host, host, &release, c10::Device(c10::kCPU)};
}

bool is_for_kernel(const c10::DataPtr& data) {
    return data.get_deleter() == &release || (data.get_context() == data.get() && addresses().is_host(data.get()));
}

c10::DataPtr moved_to_gpu(c10::DataPtr&& data) {
    void* device = addresses().to_device(data.release_context());
    auto gpu = static_cast<c10::DeviceIndex>(addresses().gpu_of(device));
    return {device, device, allocator()->raw_deleter(), c10::Device(c10::kCUDA, gpu)};
}

OnGpu::OnGpu() { ++on_gpu; }
OnGpu::~OnGpu() { --on_gpu; }

}  // namespace simulated
