// What tests ask and tell. See src/lib.rs.
#include <cstdint>
#include <cstring>

#include <c10/util/Logging.h>

#include "addresses.h"
#include "counts.h"
#include "faults.h"

namespace {

// libtorch's Python half has it look at TORCH_CPP_LOG_LEVEL; here nobody else does.
struct Logging {
    Logging() { c10::initLogging(); }
} logging;

}  // namespace

extern "C" {

void simulated_gpu_reset() { simulated::counter().reset(); }
void simulated_gpu_enter(const char* phase) { simulated::counter().enter(phase); }
void simulated_gpu_set_capacity(int gpu, uint64_t bytes) { simulated::addresses().set_capacity(gpu, bytes); }
void simulated_gpu_set_foreign(int gpu, uint64_t bytes) { simulated::addresses().set_foreign(gpu, bytes); }
void simulated_gpu_fail_at(int64_t nth) { simulated::faults().fail_at(nth); }

void simulated_gpu_set_fault(const char* name, int64_t nth, int sticky, const char* message) {
    simulated::faults().set({name, nth, sticky, message});
}

// JSON; goes back through `free`.
char* simulated_gpu_counts() { return strdup(simulated::counter().report().c_str()); }

}  // extern "C"
