// The CUDA driver's virtual memory, which the allocator's expandable segments are made of.
//
// Every address has bytes behind it here, so that mapping is nothing but counting.
#include <cstring>

#include <c10/cuda/PeerToPeerAccess.h>
#include <cuda.h>
#include <cuda_runtime_api.h>

#include "addresses.h"
#include "runtime.h"

namespace simulated {
namespace {

constexpr size_t kGranularity = size_t{2} << 20;

// Physical memory that cuMemCreate made.
struct Physical {
    int gpu;
    size_t bytes;
};

CUresult reserve(CUdeviceptr* address, size_t bytes, size_t, CUdeviceptr, unsigned long long) {
    void* found = addresses().reserve(current_gpu(), bytes);
    *address = reinterpret_cast<CUdeviceptr>(found);
    return found == nullptr ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
}

CUresult unreserve(CUdeviceptr address, size_t) {
    addresses().unreserve(reinterpret_cast<void*>(address));
    return CUDA_SUCCESS;
}

CUresult create(CUmemGenericAllocationHandle* handle, size_t bytes, const CUmemAllocationProp* of, unsigned long long) {
    if (!addresses().take(of->location.id, bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
    *handle = reinterpret_cast<CUmemGenericAllocationHandle>(new Physical{of->location.id, bytes});
    return CUDA_SUCCESS;
}

CUresult release(CUmemGenericAllocationHandle handle) {
    auto* physical = reinterpret_cast<Physical*>(handle);
    addresses().give_back(physical->gpu, physical->bytes);
    delete physical;
    return CUDA_SUCCESS;
}

CUresult map(CUdeviceptr, size_t, size_t, CUmemGenericAllocationHandle, unsigned long long) { return CUDA_SUCCESS; }

CUresult unmap(CUdeviceptr address, size_t bytes) {
    addresses().clear(reinterpret_cast<void*>(address), bytes);
    return CUDA_SUCCESS;
}

CUresult set_access(CUdeviceptr, size_t, const CUmemAccessDesc*, size_t) { return CUDA_SUCCESS; }

CUresult granularity(size_t* bytes, const CUmemAllocationProp*, CUmemAllocationGranularity_flags) {
    *bytes = kGranularity;
    return CUDA_SUCCESS;
}

CUresult attribute(int* value, CUdevice_attribute which, CUdevice) {
    *value = which == CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED ? 1 : 0;
    return CUDA_SUCCESS;
}

CUresult device(CUdevice* found, int ordinal) {
    *found = ordinal;
    return CUDA_SUCCESS;
}

CUresult context(CUcontext* found) {
    *found = reinterpret_cast<CUcontext>(1);
    return CUDA_SUCCESS;
}

CUresult words(CUresult error, const char** text) {
    *text = error == CUDA_ERROR_OUT_OF_MEMORY ? "out of memory" : "an error of the simulated driver";
    return CUDA_SUCCESS;
}

CUresult unknown() { return CUDA_ERROR_NOT_SUPPORTED; }

struct Entry {
    const char* name;
    void* function;
};

template <typename Function>
void* pointer(Function function) {
    return reinterpret_cast<void*>(function);
}

void* entry_point(const char* name) {
    static const Entry all[] = {
        {"cuMemAddressReserve", pointer(reserve)}, {"cuMemAddressFree", pointer(unreserve)},
        {"cuMemCreate", pointer(create)},          {"cuMemRelease", pointer(release)},
        {"cuMemMap", pointer(map)},                {"cuMemUnmap", pointer(unmap)},
        {"cuMemSetAccess", pointer(set_access)},   {"cuMemGetAllocationGranularity", pointer(granularity)},
        {"cuDeviceGetAttribute", pointer(attribute)}, {"cuDeviceGet", pointer(device)},
        {"cuCtxGetCurrent", pointer(context)},     {"cuGetErrorString", pointer(words)},
    };
    for (const auto& [known, function] : all) {
        if (std::strcmp(known, name) == 0) return function;
    }
    return pointer(unknown);
}

}  // namespace
}  // namespace simulated

extern "C" cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, unsigned long long,
                                                        cudaDriverEntryPointQueryResult* result) {
    *function = simulated::entry_point(name);
    if (result != nullptr) *result = cudaDriverEntryPointSuccess;
    return cudaSuccess;
}

namespace c10::cuda {

// Takes the place of libc10_cuda's own, which asks NVML, that need not be here, whether GPUs are linked by NVLink fabric.
bool get_fabric_access(c10::DeviceIndex) { return false; }

}  // namespace c10::cuda
