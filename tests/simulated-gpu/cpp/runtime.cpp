// The CUDA runtime that libtorch's allocator, streams and guards call: devices, errors and memory.
#include "runtime.h"

#include <cstring>
#include <utility>

#include <cuda_runtime_api.h>

#include "addresses.h"
#include "counts.h"
#include "faults.h"
#include "settings.h"
#include "streams.h"

namespace simulated {

namespace {
thread_local int device = 0;
thread_local cudaError_t last = cudaSuccess;
std::map<void*, size_t> blocks;  // of cudaMalloc
std::mutex blocks_lock;
}  // namespace

int current_gpu() { return device; }

cudaError_t said(cudaError_t error) {
    if (faults().sticky() != 0) error = static_cast<cudaError_t>(faults().sticky());
    if (error != cudaSuccess) last = error;
    return error;
}

}  // namespace simulated

using simulated::addresses;
using simulated::said;

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
    *count = 0;
    if (simulated::settings().driver == 0) return said(cudaErrorNoDevice);
    if (simulated::settings().driver < CUDART_VERSION / 1000 * 1000) return said(cudaErrorInsufficientDriver);
    *count = static_cast<int>(simulated::settings().gpus.size());
    return *count == 0 ? said(cudaErrorNoDevice) : cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
    *version = simulated::settings().driver;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
    *device = simulated::device;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
    if (device < 0 || device >= static_cast<int>(simulated::settings().gpus.size())) return said(cudaErrorInvalidDevice);
    simulated::device = device;
    return cudaSuccess;
}

#undef cudaGetDeviceProperties
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
    const auto& gpu = simulated::settings().gpus.at(static_cast<size_t>(device));
    *properties = {};
    std::strcpy(properties->name, "Simulated GPU");
    properties->totalGlobalMem = gpu.bytes;
    properties->major = gpu.major;
    properties->minor = gpu.minor;
    properties->multiProcessorCount = 100;
    properties->warpSize = 32;
    return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) {
    *can = 0;
    return cudaSuccess;
}

cudaError_t cudaGetLastError() { return std::exchange(simulated::last, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return simulated::last; }

const char* cudaGetErrorString(cudaError_t error) {
    switch (error) {
        case cudaSuccess: return "no error";
        case cudaErrorMemoryAllocation: return "out of memory";
        case cudaErrorInsufficientDriver: return "CUDA driver version is insufficient for CUDA runtime version";
        case cudaErrorNoDevice: return "no CUDA-capable device is detected";
        case cudaErrorInvalidDevice: return "invalid device ordinal";
        case cudaErrorNotReady: return "device not ready";
        case cudaErrorECCUncorrectable: return "uncorrectable ECC error encountered";
        case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
        case cudaErrorLaunchFailure: return "unspecified launch failure";
        case cudaErrorAssert: return "device-side assert triggered";
        default: return "an error that the simulated GPU has no words for";
    }
}

const char* cudaGetErrorName(cudaError_t error) {
    return error == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "cudaError";
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
    *free = addresses().free(simulated::device);
    *total = addresses().capacity(simulated::device);
    return said(cudaSuccess);
}

cudaError_t cudaMalloc(void** address, size_t bytes) {
    *address = nullptr;
    if (said(cudaSuccess) != cudaSuccess) return simulated::last;
    if (!addresses().take(simulated::device, bytes)) return said(cudaErrorMemoryAllocation);
    *address = addresses().reserve(simulated::device, bytes);
    std::lock_guard hold(simulated::blocks_lock);
    simulated::blocks[*address] = bytes;
    return cudaSuccess;
}

cudaError_t cudaFree(void* address) {
    if (address == nullptr) return said(cudaSuccess);
    simulated::counter().wait("cudaFree");
    simulated::streams().flush_all();
    std::lock_guard hold(simulated::blocks_lock);
    auto block = simulated::blocks.find(address);
    if (block == simulated::blocks.end()) return said(cudaErrorInvalidValue);
    addresses().unreserve(address);
    addresses().give_back(addresses().gpu_of(address), block->second);
    simulated::blocks.erase(block);
    return said(cudaSuccess);
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return cudaSuccess; }

}  // extern "C"
