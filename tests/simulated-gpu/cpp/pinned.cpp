// Page-locked memory: ordinary, but known. It stays as long as a copy that goes on holds its tensor.
#include <cstring>
#include <map>
#include <mutex>

#include "memory.h"

namespace simulated {

namespace {

struct Ranges {
    std::mutex lock;
    std::map<uintptr_t, size_t> bytes;  // by address
};

Ranges& ranges() {
    static auto* all = new Ranges;
    return *all;
}

void release(void* p) {
    if (p == nullptr) return;
    {
        std::lock_guard hold(ranges().lock);
        ranges().bytes.erase(reinterpret_cast<uintptr_t>(p));
    }
    std::free(p);
}

struct PinnedAllocator final : c10::Allocator {
    c10::DataPtr allocate(size_t bytes) override {
        constexpr size_t kAlignment = 64;
        if (bytes == 0) return {nullptr, c10::Device(c10::kCPU)};
        void* p = std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
        TORCH_CHECK(p != nullptr, "CUDA error: out of memory for page-locked bytes");
        std::lock_guard hold(ranges().lock);
        ranges().bytes[reinterpret_cast<uintptr_t>(p)] = bytes;
        return {p, p, &release, c10::Device(c10::kCPU)};
    }
    c10::DeleterFnPtr raw_deleter() const override { return &release; }
    void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
};

}  // namespace

c10::Allocator* pinned_allocator() {
    static auto* one = new PinnedAllocator;
    return one;
}

bool is_pinned(const void* p) {
    std::lock_guard hold(ranges().lock);
    auto& all = ranges().bytes;
    auto at = reinterpret_cast<uintptr_t>(p);
    auto found = all.upper_bound(at);
    if (found == all.begin()) return false;
    --found;
    return at < found->first + found->second;
}

}  // namespace simulated
