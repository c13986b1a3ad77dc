// Tensors of the CPU over the bytes of a GPU's tensors, for the time of one operator.
#pragma once

#include <set>
#include <unordered_map>
#include <vector>

#include <ATen/core/Tensor.h>

namespace simulated {

class Twins {
public:
    // The twin of a GPU's tensor: one per tensor, and one storage per storage.
    at::Tensor to_host(const at::Tensor& gpu);
    // The GPU's tensor of a twin, or of what a kernel made.
    at::Tensor to_gpu(const at::Tensor& host);
    // Brings back what the kernel did to shapes and storages of the twins.
    void settle();

private:
    struct Pair {
        at::Tensor gpu, host;
        const void* bytes;  // of the twin's storage before the kernel
    };
    c10::Storage gpu_storage(const c10::Storage& host);

    std::vector<Pair> pairs_;
    std::unordered_map<const c10::TensorImpl*, size_t> by_gpu_, by_host_;
    std::unordered_map<c10::StorageImpl*, c10::Storage> host_storages_, gpu_storages_;
    std::set<c10::StorageImpl*> settled_;
    std::vector<c10::Storage> alive_;
};

}  // namespace simulated
