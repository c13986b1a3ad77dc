#include "operands.h"

#include <mutex>
#include <set>

#include <ATen/Context.h>
#include <ATen/core/op_registration/adaption.h>

#include "counts.h"
#include "fallback.h"
#include "table.h"

namespace simulated {

using at::Tensor;
using c10::IValue;

namespace {

std::string name_of(const c10::OperatorHandle& op) {
    const auto& name = op.operator_name();
    return name.overload_name.empty() ? name.name : name.name + "." + name.overload_name;
}

// As the function is called in which a real GPU's wrapper checks: it is part of the message.
std::string wrapper(const c10::OperatorHandle& op) {
    const std::string prefix = "aten::";
    std::string name = op.operator_name().name.substr(prefix.size()), overload = op.operator_name().overload_name;
    if (overload.find("out") != std::string::npos || overload == "values" || overload == "grad_input") overload.clear();
    return "wrapper_CUDA_" + (overload.empty() ? "" : overload + "_") + name;
}

bool is_convolution(const std::string& name) {
    return name == "aten::convolution" || name == "aten::convolution_backward";
}

bool is_product(const std::string& name) {
    static const std::set<std::string> all = {"aten::mm.out", "aten::addmm.out", "aten::bmm.out", "aten::baddbmm.out"};
    return all.count(name) != 0;
}

// Whether cuDNN has not yet seen a convolution of these shapes.
bool is_new(const std::string& shapes) {
    static std::mutex lock;
    static auto* seen = new std::set<std::string>;
    std::lock_guard hold(lock);
    return seen->insert(shapes).second;
}

}  // namespace

Operands::Operands(const c10::OperatorHandle& op, const torch::jit::Stack& stack)
    : op_(op), stack_(stack), first_(stack.size() - op.schema().arguments().size()), name_(name_of(op)) {}

template <typename Look>
void Operands::each_tensor(Look look) const {
    const auto& arguments = op_.schema().arguments();
    for (size_t at = 0; at < arguments.size(); ++at) {
        const IValue& value = argument(at);
        if (value.isTensor() && value.toTensor().defined()) {
            look(value.toTensor(), arguments[at].name());
        } else if (value.isTensorList() || value.isOptionalTensorList()) {
            for (const IValue& one : value.toListRef()) {
                if (one.isTensor() && one.toTensor().defined()) look(one.toTensor(), arguments[at].name());
            }
        }
    }
}

std::optional<c10::Device> Operands::device() const {
    std::optional<c10::Device> found;
    each_tensor([&](const Tensor& tensor, const std::string&) {
        if (!found && tensor.is_cuda()) found = tensor.device();
    });
    for (size_t at = 0; !found && at < op_.schema().arguments().size(); ++at) {
        const IValue& value = argument(at);
        if (value.isDevice() && value.toDevice().is_cuda() && value.toDevice().has_index()) found = value.toDevice();
    }
    return found;
}

bool Operands::takes_host_indices() const {
    return name_ == "aten::_index_put_impl_" || name_ == "aten::index.Tensor_out";
}

void Operands::check_devices() const {
    const OperatorFacts* facts = facts_of(name_);
    if (facts == nullptr || !facts->checked) return;
    std::optional<c10::Device> common;
    const std::string method = wrapper(op_);
    each_tensor([&](const Tensor& tensor, const std::string& argument) {
        c10::impl::check_and_update_common_device(common, tensor, method.c_str(), argument.c_str());
    });
}

// `nonzero` of each mask; a single mask with a single value is filled with it, which the host asks for.
int64_t Operands::waits_of_index_put() const {
    int64_t masks = 0, others = 0;
    for (const IValue& one : argument(1).toListRef()) {
        if (!one.isTensor() || !one.toTensor().defined()) continue;
        auto type = one.toTensor().scalar_type();
        ++(type == at::kBool || type == at::kByte ? masks : others);
    }
    const Tensor& value = argument(2).toTensor();
    bool accumulates = argument(3).toBool();
    if (masks == 1 && others == 0 && value.numel() == 1 && !accumulates) return value.is_cuda() ? 1 : 0;
    return masks;
}

void Operands::count_waits() const {
    int64_t times = waits(name_) ? 1 : 0;
    if (name_ == "aten::_index_put_impl_") times += waits_of_index_put();
    for (; times > 0; --times) wait(name_);
}

std::string Operands::shapes() const {
    std::string text = name_;
    each_tensor([&](const Tensor& tensor, const std::string&) {
        text += "|" + std::string(tensor.dtype().name());
        for (int64_t size : tensor.sizes()) text += "," + std::to_string(size);
    });
    return text;
}

void Operands::count_choices() const {
    const auto& context = at::globalContext();
    const bool convolution = is_convolution(name_);
    if (!convolution && !is_product(name_)) return;
    bool single = false;
    each_tensor([&](const Tensor& tensor, const std::string&) { single |= tensor.scalar_type() == at::kFloat; });
    bool tf32 = single && (convolution ? context.allowTF32CuDNN() : context.allowTF32CuBLAS());
    bool searched = convolution && context.benchmarkCuDNN() && is_new(shapes());
    counter().count([&](Counts& counts) {
        counts.tf32 += tf32 ? 1 : 0;
        counts.searches += searched ? 1 : 0;
    });
}

}  // namespace simulated
