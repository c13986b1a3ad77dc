#include "settings.h"

#include <cstdlib>
#include <sstream>

namespace simulated {

namespace {

const char* variable(const char* name) { return std::getenv(name); }

std::string text(const char* name) {
    const char* found = variable(name);
    return found == nullptr ? "" : found;
}

int64_t number(const char* name, int64_t otherwise) {
    const char* found = variable(name);
    return found == nullptr ? otherwise : std::atoll(found);
}

// UUID:MIB:CAPABILITY, a GPU of capability 8.9 having 89.
Gpu parse(const std::string& one) {
    auto parts = split(one, ':');
    parts.resize(3);
    int capability = std::atoi(parts[2].c_str());
    return {parts[0], static_cast<size_t>(std::atoll(parts[1].c_str())) << 20, capability / 10, capability % 10};
}

// As CUDA does: indices or UUIDs, up to the first that names no GPU.
std::vector<Gpu> visible(const std::vector<Gpu>& all) {
    const char* chosen = variable("CUDA_VISIBLE_DEVICES");
    if (chosen == nullptr) return all;
    std::vector<Gpu> found;
    for (const auto& name : split(chosen, ',')) {
        const Gpu* match = nullptr;
        for (size_t at = 0; at < all.size(); ++at) {
            if (name == std::to_string(at) || name == all[at].uuid) match = &all[at];
        }
        if (match == nullptr) break;
        found.push_back(*match);
    }
    return found;
}

Settings read() {
    Settings found;
    std::vector<Gpu> all;
    std::string gpus = text("SIMULATED_GPUS");
    for (const auto& one : split(gpus.empty() ? "GPU-0:12288:89" : gpus, ';')) all.push_back(parse(one));
    found.gpus = visible(all);
    found.driver = static_cast<int>(number("SIMULATED_GPU_DRIVER", 13000));
    found.foreign_bytes = static_cast<size_t>(number("SIMULATED_GPU_FOREIGN_MIB", 0)) << 20;
    found.context_bytes = static_cast<size_t>(number("SIMULATED_GPU_CONTEXT_MIB", 0)) << 20;
    found.fail_at = number("SIMULATED_GPU_FAIL_AT", 0);
    found.poison = number("SIMULATED_GPU_POISON", 1) != 0;
    found.fault = text("SIMULATED_GPU_FAULT");
    found.report = text("SIMULATED_GPU_REPORT");
    found.use = text("SIMULATED_GPU_USE");
    return found;
}

}  // namespace

std::vector<std::string> split(const std::string& text, char separator) {
    std::vector<std::string> parts;
    std::istringstream stream(text);
    for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
    return parts;
}

const Settings& settings() {
    static const auto* all = new Settings(read());
    return *all;
}

}  // namespace simulated
