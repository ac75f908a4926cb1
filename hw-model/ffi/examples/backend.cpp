// A memory back end of the shape that SST (SimpleMemBackend: issueRequest, clock, a response handler) and gem5
// (enqueue, tick, a callback) expect, on the memory engine. Requests of any size are cut into accesses; the handler is
// called when the last of them is complete.
//
//     c++ backend.cpp -lcptr_memory -lpthread -ldl -lm && ./a.out
#include <cstdint>
#include <cstdio>
#include <deque>
#include <functional>
#include <stdexcept>
#include <string>
#include <unordered_map>

#include "cptr_memory.h"

class MemoryBackend {
public:
    using RequestId = std::uint64_t;
    using Handler = std::function<void(RequestId)>;

    MemoryBackend(const std::string &device, const std::string &options)
    {
        char message[300];
        if (cptr_memory_open(device.c_str(), options.c_str(), &memory_, message, sizeof message) != CPTR_MEMORY_OK)
            throw std::runtime_error(message);
        cptr_memory_geometry(memory_, &capacity_, &access_bytes_, nullptr);
    }
    ~MemoryBackend() { cptr_memory_close(memory_); }
    MemoryBackend(const MemoryBackend &) = delete;
    MemoryBackend &operator=(const MemoryBackend &) = delete;

    void setResponseHandler(Handler handler) { handler_ = std::move(handler); }

    // False if the caller must try again later, as in SST.
    bool issueRequest(RequestId id, std::uint64_t address, bool is_write, unsigned bytes)
    {
        if (waiting_.size() >= most_waiting)
            return false;
        for (std::uint64_t at = address / access_bytes_ * access_bytes_; at < address + bytes; at += access_bytes_) {
            waiting_.push_back({id, at % capacity_, is_write});
            ++parts_[id];
        }
        return true;
    }

    // One cycle of the memory's clock. True if nothing is left to do, so that the clock may be stopped.
    bool clock(std::uint64_t cycle)
    {
        if (cptr_memory_advance(memory_, cycle) != CPTR_MEMORY_OK)
            throw std::runtime_error("the clock went backwards");
        std::uint64_t taken;
        while (cptr_memory_pop(memory_, &taken, nullptr, nullptr, nullptr, nullptr) == CPTR_MEMORY_OK) {
            auto owner = owners_.find(taken);
            RequestId id = owner->second;
            owners_.erase(owner);
            if (--parts_[id] == 0) {
                parts_.erase(id);
                handler_(id);
            }
        }
        while (!waiting_.empty()) {
            const Part &part = waiting_.front();
            std::uint64_t given;
            cptr_memory_status status = cptr_memory_offer(memory_, part.address, part.is_write, 0, &given);
            if (status > 0)
                break;
            if (status < 0)
                throw std::runtime_error("an access outside of the memory");
            owners_[given] = part.id;
            waiting_.pop_front();
        }
        return waiting_.empty() && owners_.empty();
    }

private:
    struct Part {
        RequestId id;
        std::uint64_t address;
        bool is_write;
    };
    static constexpr std::size_t most_waiting = 64;
    cptr_memory *memory_ = nullptr;
    std::uint64_t capacity_ = 0, access_bytes_ = 0;
    Handler handler_;
    std::deque<Part> waiting_;
    std::unordered_map<std::uint64_t, RequestId> owners_;
    std::unordered_map<RequestId, unsigned> parts_;
};

int main()
{
    MemoryBackend memory("HBM3-6400", "channels=4 mapping=bank-interleaved refresh=sb");
    std::unordered_map<std::uint64_t, std::uint64_t> issued;
    std::uint64_t cycle = 0, next = 0, latencies = 0;
    unsigned completed = 0;
    const unsigned requests = 5000;
    memory.setResponseHandler([&](std::uint64_t id) {
        latencies += cycle - issued.at(id);
        issued.erase(id);
        ++completed;
    });
    while (completed < requests) {
        // Lines of 128 bytes, as a cache would ask for them: four accesses each.
        if (next < requests && memory.issueRequest(next, next * 128, next % 8 == 7, 128)) {
            issued[next] = cycle;
            ++next;
        }
        memory.clock(++cycle);
    }
    std::printf("%u requests in %llu cycles, mean latency %.1f\n", completed, static_cast<unsigned long long>(cycle),
                static_cast<double>(latencies) / completed);
    try {
        MemoryBackend none("HBM9", "");
    } catch (const std::runtime_error &error) {
        std::printf("%s\n", error.what());
        return issued.empty() ? 0 : 1;
    }
    return 1;
}
