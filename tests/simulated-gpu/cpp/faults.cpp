#include "faults.h"

#include <c10/cuda/CUDAException.h>
#include <c10/util/Exception.h>

#include "settings.h"

namespace simulated {

// Of the environment: NAME|NTH|STICKY|MESSAGE.
Faults::Faults() : fail_at_(settings().fail_at) {
    auto parts = split(settings().fault, '|');
    if (parts.size() < 3) return;
    parts.resize(4);
    set({parts[0], std::atoll(parts[1].c_str()), std::atoi(parts[2].c_str()), parts[3]});
}

bool Faults::is_allocation_lost() { return fail_at_ > 0 && --fail_at_ == 0; }

void Faults::set(Fault fault) {
    std::lock_guard hold(lock_);
    fault_ = std::move(fault);
    armed_ = fault_.nth > 0;
}

void Faults::check(const std::string& name) {
    // What a kernel did wrong, the next one's launch tells.
    if (sticky_ != 0) C10_CUDA_CHECK(static_cast<cudaError_t>(sticky_.load()));
    if (!armed_) return;
    std::lock_guard hold(lock_);
    if (!fault_.name.empty() && fault_.name != name) return;
    if (--fault_.nth != 0) return;
    armed_ = false;
    sticky_ = fault_.sticky;
    TORCH_CHECK(fault_.sticky != 0, fault_.message);
}

Faults& faults() {
    static auto* all = new Faults;
    return *all;
}

}  // namespace simulated
