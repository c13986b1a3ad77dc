#include "addresses.h"

#include <algorithm>
#include <cstdio>
#include <fstream>

#include <c10/util/Exception.h>
#include <sys/mman.h>
#include <unistd.h>

#include "settings.h"

namespace simulated {

namespace {

// Addresses of a GPU: many times its memory, since expandable segments reserve more than all of it, each.
constexpr size_t kSpan = size_t{1} << 40;
// CUDA gives whole pages of this size.
constexpr size_t kPage = size_t{2} << 20;

size_t pages(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

}  // namespace

Addresses::Addresses() : gpus_(settings().gpus.size()) {
    all_ = kSpan * std::max<size_t>(gpus_.size(), 1);
    auto map = [&](int access) {
        void* p = mmap(nullptr, all_, access, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        TORCH_CHECK(p != MAP_FAILED, "the simulated GPUs found no addresses");
        return static_cast<char*>(p);
    };
    device_ = map(PROT_NONE);
    host_ = map(PROT_READ | PROT_WRITE);
    for (size_t gpu = 0; gpu < gpus_.size(); ++gpu) {
        gpus_[gpu].capacity = settings().gpus[gpu].bytes;
        gpus_[gpu].foreign = settings().foreign_bytes;
        gpus_[gpu].holes[gpu * kSpan] = kSpan;
    }
}

void* Addresses::reserve(int gpu, size_t bytes) {
    std::lock_guard hold(lock_);
    auto& holes = gpus_.at(static_cast<size_t>(gpu)).holes;
    bytes = pages(bytes);
    auto hole = std::find_if(holes.begin(), holes.end(), [&](const auto& one) { return one.second >= bytes; });
    if (hole == holes.end()) return nullptr;
    auto [offset, room] = *hole;
    holes.erase(hole);
    if (room > bytes) holes[offset + bytes] = room - bytes;
    rooms_[offset] = bytes;
    return device_ + offset;
}

void Addresses::unreserve(void* device) {
    std::lock_guard hold(lock_);
    auto room = rooms_.find(static_cast<size_t>(static_cast<char*>(device) - device_));
    TORCH_INTERNAL_ASSERT(room != rooms_.end(), "the simulated GPU was given back what it never gave");
    auto [offset, bytes] = *room;
    rooms_.erase(room);
    madvise(host_ + offset, bytes, MADV_DONTNEED);
    auto& holes = gpus_[offset / kSpan].holes;
    auto after = holes.find(offset + bytes);
    if (after != holes.end()) {
        bytes += after->second;
        holes.erase(after);
    }
    auto before = holes.lower_bound(offset);
    if (before != holes.begin() && std::prev(before)->first + std::prev(before)->second == offset) {
        std::prev(before)->second += bytes;
    } else {
        holes[offset] = bytes;
    }
}

bool Addresses::take(int gpu, size_t bytes) {
    std::lock_guard hold(lock_);
    auto& memory = gpus_.at(static_cast<size_t>(gpu));
    size_t context = memory.has_context ? 0 : settings().context_bytes;
    if (memory.foreign + memory.used + context + bytes > memory.capacity) return false;
    memory.used += context + bytes;
    memory.has_context = true;
    tell_use();
    return true;
}

void Addresses::give_back(int gpu, size_t bytes) {
    std::lock_guard hold(lock_);
    gpus_.at(static_cast<size_t>(gpu)).used -= bytes;
    tell_use();
}

// For a stand-in of NVML: a file named by the process, with a line `UUID BYTES` for each GPU.
void Addresses::tell_use() const {
    if (settings().use.empty()) return;
    const std::string path = settings().use + "/" + std::to_string(getpid()), unfinished = path + ".new";
    {
        std::ofstream file(unfinished);
        for (size_t gpu = 0; gpu < gpus_.size(); ++gpu) {
            if (gpus_[gpu].used > 0) file << settings().gpus[gpu].uuid << " " << gpus_[gpu].used << "\n";
        }
    }
    std::rename(unfinished.c_str(), path.c_str());
}

void Addresses::clear(void* device, size_t bytes) { madvise(to_host(device), bytes, MADV_DONTNEED); }

size_t Addresses::capacity(int gpu) {
    std::lock_guard hold(lock_);
    return gpus_.at(static_cast<size_t>(gpu)).capacity;
}

size_t Addresses::free(int gpu) {
    std::lock_guard hold(lock_);
    const auto& memory = gpus_.at(static_cast<size_t>(gpu));
    size_t taken = memory.used + memory.foreign;
    return taken < memory.capacity ? memory.capacity - taken : 0;
}

void Addresses::set_capacity(int gpu, size_t bytes) {
    std::lock_guard hold(lock_);
    gpus_.at(static_cast<size_t>(gpu)).capacity = bytes;
}

void Addresses::set_foreign(int gpu, size_t bytes) {
    std::lock_guard hold(lock_);
    gpus_.at(static_cast<size_t>(gpu)).foreign = bytes;
}

void* Addresses::to_host(const void* device) const {
    return device == nullptr ? nullptr : host_ + (static_cast<const char*>(device) - device_);
}

void* Addresses::to_device(const void* host) const {
    return host == nullptr ? nullptr : device_ + (static_cast<const char*>(host) - host_);
}

int Addresses::gpu_of(const void* device) const {
    return static_cast<int>(static_cast<size_t>(static_cast<const char*>(device) - device_) / kSpan);
}

Addresses& addresses() {
    static auto* all = new Addresses;  // never destroyed: tensors may outlive main
    return *all;
}

}  // namespace simulated
