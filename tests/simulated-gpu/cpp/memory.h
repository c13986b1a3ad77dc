// Tensors' memory: libtorch's own caching allocator, over the simulated runtime.
#pragma once

#include <c10/core/Allocator.h>
#include <c10/cuda/CUDACachingAllocator.h>

namespace simulated {

// Memory of the present GPU. Throws libtorch's OutOfMemoryError.
c10::DataPtr allocate(size_t bytes);

// The same memory, as the CPU's kernels get it while `OnGpu` lives.
c10::DataPtr allocate_for_kernel(size_t bytes);
// A GPU's data of what allocate_for_kernel gave; none, if it gave no such thing.
bool is_for_kernel(const c10::DataPtr& data);
c10::DataPtr moved_to_gpu(c10::DataPtr&& data);

// As long as it lives, what this thread allocates on the CPU lies on the GPU.
struct OnGpu {
    OnGpu();
    ~OnGpu();
};

c10::Allocator* pinned_allocator();
bool is_pinned(const void* p);

}  // namespace simulated
