// What a program did to the simulated GPU, by the phase that it said it was in.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>

namespace simulated {

struct Counts {
    int64_t operators = 0;        // operators that would start kernels
    int64_t waits = 0;            // times the host waited for the GPU
    int64_t staged = 0;           // non_blocking copies of memory that is not page-locked: the driver holds up the host
    int64_t hazards = 0;          // memory used on a stream that the allocator was not told of
    int64_t allocations = 0;      // tensors, and what kernels took for themselves
    int64_t allocated_bytes = 0;  // of all these together
    int64_t uploaded_bytes = 0, downloaded_bytes = 0, moved_bytes = 0;  // to, from and within the GPU, by copies
    int64_t searches = 0;         // convolutions that cuDNN would have searched an algorithm for
    int64_t tf32 = 0;             // fp32 convolutions and products that would have been computed in TF32
    std::map<std::string, int64_t> waits_by_cause, operators_by_name;
};

class Counter {
public:
    void enter(const std::string& phase);
    void reset();
    // What was counted since the start or the last reset, by phase, as JSON.
    std::string report();
    // Counts under the lock.
    template <typename Change>
    void count(Change change) {
        std::lock_guard hold(lock_);
        change(by_phase_[phase_]);
    }
    void wait(const std::string& cause) {
        count([&](Counts& counts) {
            ++counts.waits;
            ++counts.waits_by_cause[cause];
        });
    }

private:
    std::mutex lock_;
    std::string phase_;
    std::map<std::string, Counts> by_phase_;
};

Counter& counter();

}  // namespace simulated
