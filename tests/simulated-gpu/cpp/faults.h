// Faults that a test asks for: an allocation that runs out of memory, an operator that fails, a GPU that is lost.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>

namespace simulated {

// What becomes of an operator.
struct Fault {
    std::string name;     // `aten::convolution`; empty: any
    int64_t nth = 0;      // how many of that name from now on; 0: none
    int sticky = 0;       // CUDA's code of an error that stays: 700 is an illegal address; 0: `message` is thrown
    std::string message;  // libtorch's or a library's words
};

class Faults {
public:
    Faults();
    void fail_at(int64_t nth) { fail_at_ = nth; }
    // Whether this allocation is the one that fails.
    bool is_allocation_lost();
    void set(Fault fault);
    // Throws, if this operator is the one.
    void check(const std::string& name);
    // The error that every call of CUDA returns from now on; 0: none.
    int sticky() const { return sticky_; }

private:
    std::atomic<int64_t> fail_at_;
    std::atomic<int> sticky_{0};
    std::mutex lock_;
    std::atomic<bool> armed_{false};
    Fault fault_;
};

Faults& faults();

}  // namespace simulated
