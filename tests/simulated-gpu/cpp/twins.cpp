#include "twins.h"

#include <cstring>

#include <ATen/EmptyTensor.h>
#include <c10/core/CPUAllocator.h>
#include <c10/cuda/CUDAStream.h>

#include "addresses.h"
#include "hazards.h"
#include "memory.h"
#include "runtime.h"

namespace simulated {

using at::Tensor;

namespace {

// The bytes of a CPU storage, as a GPU's.
c10::DataPtr moved(c10::StorageImpl* host) {
    auto& data = host->_mutable_data_ptr_no_checks();
    if (data.get() == nullptr) return {nullptr, c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(current_gpu()))};
    if (is_for_kernel(data)) return moved_to_gpu(std::move(data));
    // Made by another thread, or not by the allocator: copied.
    auto made = allocate(host->nbytes());
    std::memcpy(addresses().to_host(made.get()), data.get(), host->nbytes());
    return made;
}

// A CPU storage over a GPU storage's bytes, which it keeps alive.
c10::Storage twin_of(const c10::Storage& storage) {
    auto* own = storage.unsafeGetStorageImpl();
    void* bytes = own->_mutable_data_ptr_no_checks().get();
    auto gpu = storage.device().index();
    if (bytes != nullptr) hazards().used(bytes, stream_id(c10::cuda::getCurrentCUDAStream(gpu).stream()));
    c10::DataPtr data(addresses().to_host(bytes), new c10::Storage(storage),
                      [](void* kept) { delete static_cast<c10::Storage*>(kept); }, c10::Device(c10::kCPU));
    return c10::Storage(c10::make_intrusive<c10::StorageImpl>(c10::StorageImpl::use_byte_size_t(), own->nbytes(),
                                                              std::move(data), c10::GetCPUAllocator(), true));
}

}  // namespace

Tensor Twins::to_host(const Tensor& gpu) {
    auto* impl = gpu.unsafeGetTensorImpl();
    if (auto known = by_gpu_.find(impl); known != by_gpu_.end()) return pairs_[known->second].host;
    auto* own = gpu.storage().unsafeGetStorageImpl();
    auto twin = host_storages_.find(own);
    if (twin == host_storages_.end()) {
        twin = host_storages_.emplace(own, twin_of(gpu.storage())).first;
        gpu_storages_.emplace(twin->second.unsafeGetStorageImpl(), gpu.storage());
    }
    Tensor host = at::detail::make_tensor<c10::TensorImpl>(c10::Storage(twin->second),
                                                          c10::DispatchKeySet(c10::DispatchKey::CPU), gpu.dtype());
    auto* to = host.unsafeGetTensorImpl();
    to->set_sizes_and_strides(gpu.sizes(), gpu.strides(), gpu.storage_offset());
    if (impl->is_wrapped_number()) to->set_wrapped_number(true);
    by_gpu_.emplace(impl, pairs_.size());
    by_host_.emplace(to, pairs_.size());
    pairs_.push_back({gpu, host, twin->second.data()});
    return host;
}

Tensor Twins::to_gpu(const Tensor& host) {
    if (auto known = by_host_.find(host.unsafeGetTensorImpl()); known != by_host_.end()) return pairs_[known->second].gpu;
    if (!host.device().is_cpu()) return host;
    Tensor gpu = at::detail::make_tensor<c10::TensorImpl>(gpu_storage(host.storage()),
                                                         c10::DispatchKeySet(c10::DispatchKey::CUDA), host.dtype());
    gpu.unsafeGetTensorImpl()->set_sizes_and_strides(host.sizes(), host.strides(), host.storage_offset());
    return gpu;
}

void Twins::settle() {
    for (auto& [gpu, host, bytes] : pairs_) {
        auto* to = gpu.unsafeGetTensorImpl();
        auto now = host.storage();
        auto* impl = now.unsafeGetStorageImpl();
        auto own = gpu_storages_.find(impl);
        if (own == gpu_storages_.end()) {
            to->set_storage_keep_dtype(gpu_storage(now));
        } else if (now.data() != bytes && settled_.insert(impl).second) {
            auto* storage = own->second.unsafeGetStorageImpl();
            storage->set_nbytes(now.nbytes());
            storage->set_data_ptr_noswap(moved(impl));
        }
        if (host.sizes() != gpu.sizes() || host.strides() != gpu.strides() ||
            host.storage_offset() != gpu.storage_offset()) {
            to->set_sizes_and_strides(host.sizes(), host.strides(), host.storage_offset());
        }
    }
}

c10::Storage Twins::gpu_storage(const c10::Storage& host) {
    auto* from = host.unsafeGetStorageImpl();
    if (auto found = gpu_storages_.find(from); found != gpu_storages_.end()) return found->second;
    c10::Storage made(c10::make_intrusive<c10::StorageImpl>(c10::StorageImpl::use_byte_size_t(), from->nbytes(),
                                                            moved(from), c10::cuda::CUDACachingAllocator::get(), true));
    gpu_storages_.emplace(from, made);
    alive_.push_back(host);
    return made;
}

}  // namespace simulated
