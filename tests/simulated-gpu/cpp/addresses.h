// Addresses and bytes of the simulated GPUs' memory.
//
// What tensors hold are addresses of a range without access: host code that reads a GPU's memory dies as it would
// with a real one. The bytes lie at the same place of a second range, for kernels alone.
#pragma once

#include <cstddef>
#include <map>
#include <mutex>
#include <optional>
#include <vector>

namespace simulated {

class Addresses {
public:
    Addresses();

    // Room of `bytes` on `gpu`, without memory behind it.
    void* reserve(int gpu, size_t bytes);
    void unreserve(void* device);
    // Takes memory of `gpu`; false where it has not got as much.
    bool take(int gpu, size_t bytes);
    void give_back(int gpu, size_t bytes);
    // Forgets what lay there.
    void clear(void* device, size_t bytes);

    size_t capacity(int gpu);
    size_t free(int gpu);
    void set_capacity(int gpu, size_t bytes);
    void set_foreign(int gpu, size_t bytes);

    bool is_host(const void* p) const { return p >= host_ && p < host_ + all_; }
    bool is_device(const void* p) const { return p >= device_ && p < device_ + all_; }
    void* to_host(const void* device) const;
    void* to_device(const void* host) const;
    // Which GPU's an address is.
    int gpu_of(const void* device) const;

private:
    struct Memory {
        size_t capacity = 0, used = 0, foreign = 0;
        bool has_context = false;
        std::map<size_t, size_t> holes;  // offset -> bytes
    };
    void tell_use() const;
    std::mutex lock_;
    size_t all_ = 0;
    char* device_ = nullptr;
    char* host_ = nullptr;
    std::vector<Memory> gpus_;
    std::map<size_t, size_t> rooms_;  // offset -> bytes
};

Addresses& addresses();

}  // namespace simulated
