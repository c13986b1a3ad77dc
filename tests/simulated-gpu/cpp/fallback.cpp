#include "fallback.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/core/DeviceGuard.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "counts.h"
#include "faults.h"
#include "generator.h"
#include "memory.h"
#include "operands.h"
#include "runtime.h"
#include "table.h"
#include "twins.h"

namespace simulated {

using at::Tensor;
using c10::IValue;
using torch::jit::Stack;

StreamId present_stream() {
    auto gpu = static_cast<c10::DeviceIndex>(current_gpu());
    return stream_id(c10::cuda::getCurrentCUDAStream(gpu).stream());
}

void begin(const std::string& name) {
    faults().check(name);
    streams().flush(present_stream());
    counter().count([&](Counts& counts) {
        ++counts.operators;
        ++counts.operators_by_name[name];
    });
}

void wait(const std::string& cause) {
    counter().wait(cause);
    auto mode = c10::cuda::warning_state().get_sync_debug_mode();
    TORCH_CHECK(mode != c10::cuda::SyncDebugMode::L_ERROR, "called a synchronizing CUDA operation: ", cause);
}

namespace {

// Gives kernels the CPU's tensors, devices and generators in the place of a GPU's.
class Exchange {
public:
    Exchange(const Operands& operands, Twins& twins) : operands_(operands), twins_(twins) {}

    void argument(IValue& value, const c10::Argument& of) {
        if (value.isTensor()) {
            value = tensor(value.toTensor(), false);
        } else if (value.isTensorList() || value.isOptionalTensorList()) {
            list(value, [&](const Tensor& one) { return tensor(one, operands_.takes_host_indices()); });
        } else if (value.isDevice() && value.toDevice().is_cuda()) {
            value = c10::Device(c10::kCPU);
        } else if (value.isGenerator()) {
            auto* own = dynamic_cast<Generator*>(value.toGenerator().unsafeGetGeneratorImpl());
            if (own != nullptr) value = own->inner;
        } else if (value.isNone() && of.type()->str() == "Generator?") {
            value = static_cast<Generator*>(default_generator(-1).unsafeGetGeneratorImpl())->inner;
        }
    }

    void result(IValue& value) {
        if (value.isTensor() && value.toTensor().defined()) {
            value = twins_.to_gpu(value.toTensor());
        } else if (value.isTensorList() || value.isOptionalTensorList()) {
            list(value, [&](const Tensor& one) { return twins_.to_gpu(one); });
        }
    }

private:
    template <typename Change>
    static void list(IValue& value, Change change) {
        auto list = value.toList().copy();
        for (size_t i = 0; i < list.size(); ++i) {
            IValue one = list.get(i);
            if (one.isTensor() && one.toTensor().defined()) list.set(i, change(one.toTensor()));
        }
        value = list;
    }

    Tensor tensor(const Tensor& given, bool host_is_fine) {
        if (!given.defined()) return given;
        if (given.is_cuda()) return twins_.to_host(given);
        TORCH_CHECK(given.device().is_cpu(), "the simulated GPU knows no ", given.device());
        TORCH_CHECK(given.dim() == 0 || host_is_fine,
                    "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!");
        // The real kernels upload indices that lie on the host, and wait for that.
        if (given.dim() > 0) wait(operands_.name() + " with indices of the host");
        return given;
    }

    const Operands& operands_;
    Twins& twins_;
};

void check_kernel(const c10::OperatorHandle& op, const std::string& name) {
    const OperatorFacts* facts = facts_of(name);
    TORCH_CHECK_NOT_IMPLEMENTED(op.hasKernelForDispatchKey(c10::DispatchKey::CPU) ||
                                    op.hasComputedKernelForDispatchKey(c10::DispatchKey::CPU),
                                "the simulated GPU has no CPU kernel for '", name, "'");
    TORCH_CHECK_NOT_IMPLEMENTED(
        facts == nullptr || facts->cuda || facts->composite, "Could not run '", name,
        "' with arguments from the 'CUDA' backend. This could be because the operator doesn't exist for this backend, or "
        "was omitted during the selective/custom build process (if using custom build).");
}

}  // namespace

void run_on_gpu(const c10::OperatorHandle& op, c10::DispatchKeySet, Stack* stack) {
    const Operands operands(op, *stack);
    c10::OptionalDeviceGuard guard(operands.device());
    check_kernel(op, operands.name());
    begin(operands.name());
    operands.check_devices();
    operands.count_waits();
    operands.count_choices();

    Twins twins;
    Exchange exchange(operands, twins);
    const auto& schema = op.schema();
    const size_t count = schema.arguments().size(), first = stack->size() - count;
    for (size_t at = 0; at < count; ++at) exchange.argument((*stack)[first + at], schema.arguments()[at]);
    {
        at::AutoDispatchBelowADInplaceOrView below;
        OnGpu here;
        op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
    }
    twins.settle();
    const size_t returned = schema.returns().size(), from = stack->size() - returned;
    for (size_t at = 0; at < returned; ++at) exchange.result((*stack)[from + at]);
}

namespace {
TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_gpu>()); }
}  // namespace

}  // namespace simulated
