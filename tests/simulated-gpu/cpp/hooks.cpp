// What libtorch asks its CUDA half for.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/PeerToPeerAccess.h>

#include "addresses.h"
#include "generator.h"
#include "hazards.h"
#include "memory.h"
#include "runtime.h"
#include "settings.h"

namespace c10::cuda::_internal {
// Of libc10_cuda, without a header.
void setHasPrimaryContext(bool (*)(DeviceIndex));
}  // namespace c10::cuda::_internal

namespace simulated {

Generator::Generator(c10::DeviceIndex gpu)
    : c10::GeneratorImpl(c10::Device(c10::kCUDA, gpu), c10::DispatchKeySet(c10::DispatchKey::CUDA)),
      inner(at::detail::createCPUGenerator()) {}

const at::Generator& default_generator(c10::DeviceIndex gpu) {
    static const auto* all = [] {
        auto* made = new std::vector<at::Generator>;
        for (size_t at = 0; at < settings().gpus.size(); ++at) {
            made->emplace_back(c10::make_intrusive<Generator>(static_cast<c10::DeviceIndex>(at)));
        }
        return made;
    }();
    return all->at(static_cast<size_t>(gpu < 0 ? current_gpu() : gpu));
}

namespace {

struct PrimaryContexts {
    PrimaryContexts() {
        c10::cuda::_internal::setHasPrimaryContext([](c10::DeviceIndex) { return true; });
    }
} primary_contexts;

}  // namespace
}  // namespace simulated

namespace at {

// Its name is the one that libtorch_cpu asks the registry for.
struct CUDAHooks final : CUDAHooksInterface {
    explicit CUDAHooks(CUDAHooksArgs) {}

    // Called once, by libtorch's lazy initialisation.
    void init() const override {
        auto* allocator = c10::cuda::CUDACachingAllocator::get();
        const auto gpus = c10::cuda::device_count_ensure_non_zero();
        c10::cuda::detail::init_p2p_access_cache(gpus);
        allocator->init(gpus);
        allocator->attachAllocatorTraceTracker([](const auto& entry) { simulated::hazards().trace(entry); });
    }

    bool isBuilt() const override { return true; }
    bool isAvailable() const override { return c10::cuda::device_count() > 0; }
    bool hasCUDA() const override { return true; }
    bool hasCUDART() const override { return true; }
    bool hasPrimaryContext(DeviceIndex) const override { return true; }
    DeviceIndex deviceCount() const override { return c10::cuda::device_count(); }
    int getNumGPUs() const override { return c10::cuda::device_count(); }
    DeviceIndex current_device() const override { return static_cast<DeviceIndex>(simulated::current_gpu()); }
    DeviceIndex getCurrentDevice() const override { return current_device(); }
    void setCurrentDevice(DeviceIndex device) const override { c10::cuda::set_device(device); }
    DeviceIndex exchangeDevice(DeviceIndex device) const override { return c10::cuda::ExchangeDevice(device); }
    DeviceIndex maybeExchangeDevice(DeviceIndex device) const override { return c10::cuda::MaybeExchangeDevice(device); }
    void deviceSynchronize(DeviceIndex) const override { c10::cuda::device_synchronize(); }

    const Generator& getDefaultGenerator(DeviceIndex device) const override {
        return simulated::default_generator(device);
    }
    Generator getNewGenerator(DeviceIndex device) const override {
        return Generator(c10::make_intrusive<simulated::Generator>(device < 0 ? current_device() : device));
    }
    Device getDeviceFromPtr(void* data) const override {
        TORCH_CHECK(simulated::addresses().is_device(data),
                    "The specified pointer resides on host memory and is not registered with any CUDA device.");
        return {kCUDA, static_cast<DeviceIndex>(simulated::addresses().gpu_of(data))};
    }
    bool isPinnedPtr(const void* data) const override { return simulated::is_pinned(data); }
    Allocator* getPinnedMemoryAllocator() const override { return simulated::pinned_allocator(); }
    Allocator* getCUDADeviceAllocator() const override { return c10::cuda::CUDACachingAllocator::get(); }

    long versionCUDART() const override { return CUDART_VERSION; }
    std::string showConfig() const override {
        // The real one asks cuDNN and cuBLAS, too, and says nothing of architectures without a GPU.
        std::string text = "  - CUDA Runtime 13.0\n";
        if (c10::cuda::device_count() == 0) return text;
        return text + "  - NVCC architecture flags: -gencode;arch=compute_75,code=sm_75;-gencode;arch=compute_89,code=sm_89;"
                      "-gencode;arch=compute_120,code=sm_120\n";
    }
};

REGISTER_CUDA_HOOKS(CUDAHooks)

}  // namespace at
