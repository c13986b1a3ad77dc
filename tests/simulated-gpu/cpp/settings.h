// What the environment says of the simulated machine. Read once, when the library is loaded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace simulated {

struct Gpu {
    std::string uuid;
    size_t bytes = 0;         // its memory
    int major = 0, minor = 0; // compute capability
};

struct Settings {
    std::vector<Gpu> gpus;        // those that CUDA_VISIBLE_DEVICES leaves, in its order
    int driver = 0;               // the newest CUDA that the driver runs: 13000 is 13.0
    size_t foreign_bytes = 0;     // memory of each GPU that other processes hold
    size_t context_bytes = 0;     // what CUDA takes of a GPU for itself
    int64_t fail_at = 0;          // the allocation that runs out of memory; 0: none
    bool poison = true;           // fill new memory with bytes that are no number
    std::string fault;            // see faults.h
    std::string report;           // where counts go at exit; empty: nowhere
    std::string use;              // the folder where each process tells what it takes; empty: none
};

const Settings& settings();

// `text` at each `separator`; nothing of an empty text.
std::vector<std::string> split(const std::string& text, char separator);

}  // namespace simulated
