// Stands for `libcuda.so.1` where a program looks for the driver by name: what it says of itself and of its GPUs.
// The simulated GPU itself needs no such library.
#include <cstring>

#include <cuda.h>

#include "../settings.h"

using simulated::settings;

extern "C" {

CUresult cuInit(unsigned) {
    if (settings().driver == 0) return CUDA_ERROR_UNKNOWN;
    return settings().gpus.empty() ? CUDA_ERROR_NO_DEVICE : CUDA_SUCCESS;
}

CUresult cuDriverGetVersion(int* version) {
    *version = settings().driver;
    return settings().driver == 0 ? CUDA_ERROR_UNKNOWN : CUDA_SUCCESS;
}

CUresult cuGetErrorString(CUresult error, const char** words) {
    *words = error == CUDA_ERROR_NO_DEVICE ? "no CUDA-capable device is detected" : "unknown error";
    return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice* device, int ordinal) {
    if (ordinal < 0 || ordinal >= static_cast<int>(settings().gpus.size())) return CUDA_ERROR_INVALID_DEVICE;
    *device = ordinal;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char* name, int length, CUdevice) {
    std::strncpy(name, "Simulated GPU", static_cast<size_t>(length));
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute which, CUdevice device) {
    const auto& gpu = settings().gpus.at(static_cast<size_t>(device));
    if (which == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR) *value = gpu.major;
    else if (which == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR) *value = gpu.minor;
    else return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}

}  // extern "C"
