// What is not a kernel of the CPU: new tensors, views and copies.
#include <cstring>

#include <ATen/EmptyTensor.h>
#include <ATen/Context.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "addresses.h"
#include "counts.h"
#include "fallback.h"
#include "hazards.h"
#include "memory.h"
#include "table.h"
#include "twins.h"

namespace simulated {
namespace {

using at::Tensor;

// Tensors' allocator: the real one, behind the counts and the faults.
struct TensorAllocator final : c10::Allocator {
    c10::DataPtr allocate(size_t bytes) override { return simulated::allocate(bytes); }
    void copy_data(void* to, const void* from, size_t bytes) const override {
        std::memcpy(addresses().to_host(to), addresses().to_host(from), bytes);
    }
};

c10::Allocator* tensor_allocator() {
    static auto* one = new TensorAllocator;
    return one;
}

// Makes `device` the present GPU, as long as it lives.
struct OnDevice {
    c10::cuda::OptionalCUDAGuard guard;
    explicit OnDevice(std::optional<c10::Device> device) {
        at::globalContext().lazyInitDevice(c10::kCUDA);
        if (device.has_value() && device->has_index()) guard.set_device(*device);
    }
};

const c10::DispatchKeySet kKeys(c10::DispatchKey::CUDA);

Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
             std::optional<at::Device> device, std::optional<bool> pin, std::optional<at::MemoryFormat> format) {
    TORCH_CHECK(!pin.value_or(false), "Only dense CPU tensors can be pinned");
    const OnDevice here(device);
    return at::detail::empty_generic(size, tensor_allocator(), kKeys, c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride, std::optional<at::ScalarType> dtype,
                     std::optional<at::Layout>, std::optional<at::Device> device, std::optional<bool> pin) {
    TORCH_CHECK(!pin.value_or(false), "Only dense CPU tensors can be pinned");
    const OnDevice here(device);
    return at::detail::empty_strided_generic(size, stride, tensor_allocator(), kKeys, c10::dtype_or_default(dtype));
}

void copy_bytes(const Tensor& to, const Tensor& from, bool on_gpu) {
    at::AutoDispatchBelowADInplaceOrView below;
    std::optional<OnGpu> here;
    if (on_gpu) here.emplace();
    Twins twins;
    Tensor into = to.is_cuda() ? twins.to_host(to) : to, of = from.is_cuda() ? twins.to_host(from) : from;
    into.copy_(of);
}

// As late as it may be.
void copy_later(const Tensor& self, const Tensor& src) {
    const StreamId stream = present_stream();
    Tensor to = self.detach(), from = src.detach();
    for (const Tensor* one : {&to, &from}) {
        if (one->is_cuda()) hazards().used(one->storage().data_ptr().get(), stream);
    }
    streams().put(stream, [to, from] { copy_bytes(to, from, false); });
}

Tensor& copy_(Tensor& self, const Tensor& src, bool non_blocking) {
    TORCH_CHECK(self.defined() && src.defined(), "self is undefined");
    if (self.is_same(src) || self.numel() == 0) return self;
    c10::cuda::CUDAGuard guard(self.is_cuda() ? self.device() : src.device());
    const auto bytes = static_cast<int64_t>(self.numel() * self.itemsize());
    if (self.is_cuda() && src.is_cuda()) {
        begin("aten::copy_");
        counter().count([&](Counts& counts) { counts.moved_bytes += bytes; });
        copy_bytes(self, src, true);
        return self;
    }
    const bool up = self.is_cuda();
    counter().count([&](Counts& counts) { (up ? counts.uploaded_bytes : counts.downloaded_bytes) += bytes; });
    if (non_blocking && is_pinned((up ? src : self).const_data_ptr())) {
        copy_later(self, src);
        return self;
    }
    begin("aten::copy_");
    if (non_blocking) counter().count([](Counts& counts) { ++counts.staged; });
    // The driver returns from an upload of unlocked memory when it has its own copy; from a download when it is there.
    if (!non_blocking || !up) wait(up ? "copy to the GPU" : "copy to the host");
    copy_bytes(self, src, false);
    return self;
}

const Tensor& resize_(const Tensor& self, at::IntArrayRef size, std::optional<at::MemoryFormat> format) {
    c10::cuda::CUDAGuard guard(self.device());
    auto* impl = self.unsafeGetTensorImpl();
    impl->set_sizes_contiguous(size);
    if (format.has_value()) impl->empty_tensor_restride(*format);
    auto* storage = impl->unsafe_storage().unsafeGetStorageImpl();
    auto items = static_cast<size_t>(impl->numel()) + static_cast<size_t>(impl->storage_offset());
    const size_t wanted = items * impl->itemsize();
    if (wanted <= storage->nbytes()) return self;
    begin("aten::resize_");
    auto made = allocate(wanted);
    void* before = storage->_mutable_data_ptr_no_checks().get();
    if (before != nullptr) std::memcpy(addresses().to_host(made.get()), addresses().to_host(before), storage->nbytes());
    storage->set_data_ptr_noswap(std::move(made));
    storage->set_nbytes(wanted);
    return self;
}

void record_stream(Tensor& self, c10::Stream stream) {
    c10::cuda::CUDACachingAllocator::recordStream(self.storage().data_ptr(), c10::cuda::CUDAStream(stream));
}

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
    m.impl("empty.memory_format", &empty);
    m.impl("empty_strided", &empty_strided);
    m.impl("copy_", &copy_);
    m.impl("resize_", &resize_);
    m.impl("record_stream", &record_stream);
    m.impl("as_strided", &at::native::as_strided_tensorimpl);
    m.impl("view", &at::native::view);
    m.impl("_reshape_alias", &at::native::_reshape_alias);
    m.impl("unfold", &at::native::unfold);
    m.impl("set_.source_Storage_storage_offset", &at::native::set_storage_cpu_);
    m.impl("set_.source_Tensor", &at::native::set_tensor_);
    // Their general forms ask which kind of device they are on, and take kernels that are not here.
    std::set<std::string> whole = {"aten::convolution", "aten::convolution_backward"};
    // One kernel on a real GPU, where the general form has many.
    for (const auto& [name, facts] : operator_table()) {
        if (facts.cuda && facts.composite) whole.insert(name);
    }
    for (const auto& name : whole) m.impl(name.c_str(), torch::CppFunction::makeFromBoxedFunction<&run_on_gpu>());
}

}  // namespace
}  // namespace simulated
