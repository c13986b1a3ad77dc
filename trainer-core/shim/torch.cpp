// What tch lacks of libtorch, as plain C functions: autocast for any device and type, optimiser steps over
// lists of tensors, the allocator's numbers, page-locked memory and a stream of copies.
//
// Knows nothing of CUDA but its name: everything goes through libtorch's device-independent interfaces, so
// that one binary runs with and without libtorch's CUDA half. Its caller is src/libtorch/shim.rs.
//
// Each function returns null, or why it failed; the text goes back through ty_free. A tensor is what tch's
// `as_ptr` gives; one that is returned belongs to the caller, as tch's own do.

#include <algorithm>
#include <atomic>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <optional>
#include <vector>

#include <malloc.h>
#include <sched.h>

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/_foreach_lerp.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/_fused_sgd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <c10/core/AllocatorConfig.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace {

using at::Tensor;

char unsaid[] = "it failed, and memory for saying why ran out";

char* text(const char* message) {
    char* copy = strdup(message);
    return copy != nullptr ? copy : unsaid;
}

// Runs `work`; no exception leaves it.
template <typename Work>
char* guarded(Work work) noexcept {
    try {
        work();
        return nullptr;
    } catch (const c10::Error& error) {
        return text(error.what_without_backtrace());
    } catch (const std::exception& error) {
        return text(error.what());
    } catch (...) {
        return text("an exception of unknown type");
    }
}

std::vector<Tensor> list(Tensor* const* tensors, size_t count) {
    std::vector<Tensor> found;
    found.reserve(count);
    for (size_t at = 0; at < count; ++at) found.push_back(*tensors[at]);
    return found;
}

// A tensor that may be absent.
std::optional<Tensor> maybe(const Tensor* tensor) {
    return tensor == nullptr ? std::nullopt : std::optional<Tensor>(*tensor);
}

// Whether two tensors of one shape have their values in the same order of memory. The stride of a side of length
// 1 means nothing, and convolutions with a 1x1 kernel set it as they like.
bool same_layout(const Tensor& a, const Tensor& b) {
    for (int64_t side = 0; side < a.dim(); ++side) {
        if (a.size(side) != 1 && a.stride(side) != b.stride(side)) return false;
    }
    return true;
}

// The gradients of parameters that all have one, in their parameters' layout: the fused kernels go through
// all lists in the order of memory.
std::vector<Tensor> gradients(const std::vector<Tensor>& parameters) {
    std::vector<Tensor> found;
    found.reserve(parameters.size());
    for (const Tensor& parameter : parameters) {
        const Tensor& gradient = parameter.grad();
        TORCH_CHECK(gradient.defined(), "a parameter without a gradient cannot step");
        if (same_layout(gradient, parameter)) {
            found.push_back(gradient);
        } else {
            found.push_back(at::empty_like(parameter).copy_(gradient));
        }
    }
    return found;
}

#ifdef __linux__
// The cores of this process before any thread was bound to one, and whether that has happened.
cpu_set_t allowed;
std::atomic<bool> bound = false;
#endif

c10::Device cuda(int index) { return {c10::kCUDA, static_cast<c10::DeviceIndex>(index)}; }

// Starts CUDA, if nothing has yet: before that its allocator knows no device.
void start_cuda() { at::globalContext().lazyInitDevice(c10::kCUDA); }

c10::DeviceAllocator* cuda_allocator() {
    start_cuda();
    return at::getDeviceAllocator(c10::kCUDA);
}

}  // namespace

extern "C" {

struct ty_autocast {
    int enabled;
    int dtype;
};

struct ty_memory {
    int64_t allocated;
    int64_t allocated_peak;
    int64_t reserved;
    int64_t reserved_peak;
    int64_t free;
    int64_t total;
    int64_t out_of_memory;
    int64_t retries;
};

// A stream of the device that copies go through beside its computations.
struct ty_copier {
    c10::Stream stream;
};

void ty_free(char* message) {
    if (message != unsaid) std::free(message);
}

// What libtorch says it is made of, as a text for people; it goes back through ty_free.
char* ty_config(char** out) {
    return guarded([&] { *out = text(at::show_config().c_str()); });
}

// From now on malloc keeps large pieces of memory that are freed, for those that are wanted next. A training
// step wants the same ones again and again, and new memory costs a page fault each 4 KiB.
void ty_keep_freed_memory() {
#ifdef __GLIBC__
    mallopt(M_MMAP_MAX, 0);
    mallopt(M_TRIM_THRESHOLD, INT_MAX);
    mallopt(M_TOP_PAD, 64 << 20);
#endif
}

// From now on only algorithms whose results repeat, as far as libtorch has them; it warns of the others. The
// variable is cuBLAS's, which reads it when it starts.
char* ty_deterministic() {
    return guarded([] {
        setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", 0);
        at::globalContext().setDeterministicAlgorithms(true, true);
        at::globalContext().setDeterministicCuDNN(true);
        // New memory is not read before it is written: filling it would only cost time.
        at::globalContext().setDeterministicFillUninitializedMemory(false);
    });
}

// From now on GPUs multiply 32-bit floats with all of their bits: no TF32, in which convolutions and matrix
// products may keep ten of a factor.
char* ty_exact_fp32() {
    return guarded([] {
        at::globalContext().setAllowTF32CuDNN(false);
        at::globalContext().setAllowTF32CuBLAS(false);
    });
}

// Whether a GPU may multiply 32-bit floats in TF32.
char* ty_allows_tf32(int* out) {
    return guarded([&] {
        *out = at::globalContext().allowTF32CuDNN() || at::globalContext().allowTF32CuBLAS() ? 1 : 0;
    });
}

// Settings of the allocators of devices, written as in PYTORCH_ALLOC_CONF. All others become what they are
// without that variable.
char* ty_set_allocator(const char* settings) {
    return guarded([&] { c10::CachingAllocator::setAllocatorSettings(settings); });
}

// Those settings, as they were set or read last.
char* ty_allocator_settings(char** out) {
    return guarded([&] { *out = text(c10::CachingAllocator::getAllocatorSettings().c_str()); });
}

// Gives each thread of libtorch's pool a core of its own, the calling thread among them, as far as there is
// one for each. Threads that are started later go where the calling thread may go: see ty_anywhere.
char* ty_bind_threads() {
    return guarded([] {
#ifdef __linux__
        // Once is enough, and a bound thread would tell its own core as all that there are.
        if (bound || sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
        std::vector<int> cores;
        for (int core = 0; core < CPU_SETSIZE; ++core) {
            if (CPU_ISSET(core, &allowed)) cores.push_back(core);
        }
        int threads = at::get_num_threads();
        if (threads < 2 || static_cast<size_t>(threads) != cores.size()) return;
        bound = true;
        at::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
            cpu_set_t own;
            CPU_ZERO(&own);
            CPU_SET(cores[at::get_thread_num()], &own);
            sched_setaffinity(0, sizeof own, &own);
        });
#endif
    });
}

// Lets the calling thread go to every core that ty_bind_threads found.
void ty_anywhere() {
#ifdef __linux__
    if (bound) sched_setaffinity(0, sizeof allowed, &allowed);
#endif
}

// Autocast on for this thread, or off where `dtype` is negative; what it was goes to `before`. `cuda` is the kind of
// device.
char* ty_autocast_enter(int cuda, int dtype, ty_autocast* before) {
    return guarded([&] {
        auto device = cuda != 0 ? at::kCUDA : at::kCPU;
        before->enabled = at::autocast::is_autocast_enabled(device) ? 1 : 0;
        before->dtype = static_cast<int>(at::autocast::get_autocast_dtype(device));
        at::autocast::set_autocast_enabled(device, dtype >= 0);
        if (dtype >= 0) at::autocast::set_autocast_dtype(device, static_cast<at::ScalarType>(dtype));
        at::autocast::increment_nesting();
    });
}

// The counterpart of ty_autocast_enter. Copies of weights are forgotten when the outermost one is left.
char* ty_autocast_leave(int cuda, const ty_autocast* before) {
    return guarded([&] {
        auto device = cuda != 0 ? at::kCUDA : at::kCPU;
        at::autocast::set_autocast_enabled(device, before->enabled != 0);
        at::autocast::set_autocast_dtype(device, static_cast<at::ScalarType>(before->dtype));
        if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    });
}

// A scalar: the length of the gradients of all parameters together. Those without one count as zero.
char* ty_gradient_norm(Tensor* const* parameters, size_t count, Tensor** norm) {
    return guarded([&] {
        std::vector<Tensor> found;
        for (size_t at = 0; at < count; ++at) {
            const Tensor& gradient = parameters[at]->grad();
            if (gradient.defined()) found.push_back(gradient);
        }
        if (found.empty()) {
            auto options = count == 0 ? at::TensorOptions() : parameters[0]->options();
            *norm = new Tensor(at::zeros({}, options));
            return;
        }
        *norm = new Tensor(at::linalg_vector_norm(at::stack(at::_foreach_norm(found))));
    });
}

// Forgets the gradients: the next ones are stored, not added to zeros.
char* ty_forget_gradients(Tensor* const* parameters, size_t count) {
    return guarded([&] {
        for (size_t at = 0; at < count; ++at) parameters[at]->mutable_grad() = Tensor();
    });
}

// A step of SGD with Nesterov momentum. Gradients are divided by `divisor`, a scalar on the device.
// Nothing moves when `found_inf`, a float on the device, is 1.
char* ty_sgd(Tensor* const* parameters, Tensor* const* momenta, size_t count, double decay, double momentum,
             double lr, const Tensor* divisor, const Tensor* found_inf) {
    return guarded([&] {
        auto moved = list(parameters, count);
        // At a momentum of nothing the kernel refuses to keep one, though a later step may need it.
        momentum = std::max(momentum, 1e-30);
        at::_fused_sgd_(moved, gradients(moved), list(momenta, count), decay, momentum, lr, /*dampening=*/0.0,
                        /*nesterov=*/true, /*maximize=*/false, /*is_first_step=*/false, maybe(divisor),
                        maybe(found_inf));
    });
}

// A step of AdamW (decoupled decay), else as ty_sgd. `step`: a float on the device, the number of this step.
char* ty_adamw(Tensor* const* parameters, Tensor* const* averages, Tensor* const* squares, size_t count,
               const Tensor* step, double decay, double beta1, double beta2, double eps, double lr,
               const Tensor* divisor, const Tensor* found_inf) {
    return guarded([&] {
        auto moved = list(parameters, count);
        std::vector<Tensor> steps(count, *step);
        at::_fused_adamw_(moved, gradients(moved), list(averages, count), list(squares, count), {}, steps, lr,
                          beta1, beta2, decay, eps, /*amsgrad=*/false, /*maximize=*/false, maybe(divisor),
                          maybe(found_inf));
    });
}

// `from += weight * (to - from)`, tensor by tensor.
char* ty_lerp(Tensor* const* from, Tensor* const* to, size_t count, double weight) {
    return guarded([&] { at::_foreach_lerp_(list(from, count), list(to, count), weight); });
}

// The values of `from` become those of `to`, tensor by tensor.
char* ty_copy(Tensor* const* to, Tensor* const* from, size_t count) {
    return guarded([&] { at::_foreach_copy_(list(to, count), list(from, count)); });
}

// What the caching allocator of a CUDA device says.
char* ty_memory_stats(int index, ty_memory* out) {
    return guarded([&] {
        auto* allocator = cuda_allocator();
        auto device = static_cast<c10::DeviceIndex>(index);
        auto stats = allocator->getDeviceStats(device);
        auto [free, total] = allocator->getMemoryInfo(device);
        out->allocated = stats.allocated_bytes[0].current;
        out->allocated_peak = stats.allocated_bytes[0].peak;
        out->reserved = stats.reserved_bytes[0].current;
        out->reserved_peak = stats.reserved_bytes[0].peak;
        out->free = static_cast<int64_t>(free);
        out->total = static_cast<int64_t>(total);
        out->out_of_memory = stats.num_ooms;
        out->retries = stats.num_alloc_retries;
    });
}

// From now on peaks are counted anew.
char* ty_memory_reset_peak(int index) {
    return guarded([&] { cuda_allocator()->resetPeakStats(static_cast<c10::DeviceIndex>(index)); });
}

// Gives memory that no tensor uses back to the device.
char* ty_memory_release() {
    return guarded([] { cuda_allocator()->emptyCache(); });
}

// Page-locked bytes, which a CUDA device copies from by itself. Their memory is used again only when
// copies that go on have ended.
char* ty_pinned(int64_t bytes, Tensor** out) {
    return guarded([&] {
        start_cuda();
        auto options = at::TensorOptions().dtype(at::kByte).pinned_memory(true);
        *out = new Tensor(at::empty({bytes}, options));
    });
}

char* ty_copier_new(int index, ty_copier** out) {
    return guarded([&] {
        start_cuda();
        c10::impl::VirtualGuardImpl guard(c10::kCUDA);
        *out = new ty_copier{guard.getStreamFromGlobalPool(cuda(index))};
    });
}

void ty_copier_free(ty_copier* copier) { delete copier; }

// Copies tensors to the copier's device, beside what the device does now. Does not wait for page-locked
// ones. `event` is passed when they are there.
char* ty_copier_send(const ty_copier* copier, Tensor* const* tensors, size_t count, Tensor** out,
                     c10::Event** event) {
    return guarded([&] {
        c10::StreamGuard aside(copier->stream);
        std::vector<Tensor> copies;
        for (size_t at = 0; at < count; ++at) {
            copies.push_back(tensors[at]->to(copier->stream.device(), /*non_blocking=*/true));
        }
        auto passed = std::make_unique<c10::Event>(c10::kCUDA);
        passed->record(copier->stream);
        for (size_t at = 0; at < count; ++at) out[at] = new Tensor(copies[at]);
        *event = passed.release();
    });
}

// Lets the device's present stream wait for `event`, and use the tensors that came with it. The host goes
// on at once.
char* ty_copier_receive(const ty_copier* copier, Tensor* const* tensors, size_t count, const c10::Event* event) {
    return guarded([&] {
        c10::impl::VirtualGuardImpl guard(c10::kCUDA);
        auto present = guard.getStream(copier->stream.device());
        event->block(present);
        for (size_t at = 0; at < count; ++at) {
            guard.recordDataPtrOnStream(tensors[at]->storage().data_ptr(), present);
        }
    });
}

// Begins to copy tensors of one CUDA device to page-locked memory, after what the device was told before. `event` is
// passed when those in `out` hold their values.
char* ty_to_host(Tensor* const* tensors, size_t count, Tensor** out, c10::Event** event) {
    return guarded([&] {
        TORCH_CHECK(count > 0, "there is nothing to copy to the host");
        std::vector<Tensor> copies;
        for (size_t at = 0; at < count; ++at) {
            auto options = tensors[at]->options().device(c10::kCPU).pinned_memory(true);
            copies.push_back(at::empty_like(*tensors[at], options));
            copies.back().copy_(*tensors[at], /*non_blocking=*/true);
        }
        c10::impl::VirtualGuardImpl guard(c10::kCUDA);
        auto passed = std::make_unique<c10::Event>(c10::kCUDA);
        passed->record(guard.getStream(tensors[0]->device()));
        for (size_t at = 0; at < count; ++at) out[at] = new Tensor(copies[at]);
        *event = passed.release();
    });
}

// Lets the host wait for `event`.
char* ty_event_wait(const c10::Event* event) {
    return guarded([&] { event->synchronize(); });
}

// Whether the device has passed `event`. The host does not wait.
char* ty_event_passed(const c10::Event* event, int* out) {
    return guarded([&] { *out = event->query() ? 1 : 0; });
}

void ty_event_free(c10::Event* event) { delete event; }

}  // extern "C"
