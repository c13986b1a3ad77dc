-- Come to lead, unless another instance does: take the lease and draw a new leader epoch.
-- KEYS[1] schema      KEYS[2] leader epoch  KEYS[3] leader (lease)  KEYS[4] quarantine
-- ARGV[1] our schema  ARGV[2] instance id   ARGV[3] our address     ARGV[4] length of the lease, ms
-- ARGV[5] 'take', or 'wait' to respect another's lease
-- ARGV[6] the highest leader epoch that the caller has seen
-- Returns {'ok', epoch, keys quarantined...}, {'held', epoch, address, ms left}, {'schema', found} or {'lost'}.

local aside = {}
-- A text; whatever else lies under its key is quarantined.
local function text(key)
  local value = redis.pcall('GET', key)
  if type(value) == 'table' then
    redis.call('RENAME', key, KEYS[4] .. ' ' .. key)
    aside[#aside + 1] = key
    return false
  end
  return value
end

local schema = text(KEYS[1])
if schema and schema ~= ARGV[1] then return {'schema', schema} end
local stored = text(KEYS[2])
if not stored and tonumber(ARGV[6]) > 0 then return {'lost'} end

local holder = text(KEYS[3])
local left = redis.call('PTTL', KEYS[3])
if ARGV[5] == 'wait' and holder and left > 0 and string.sub(holder, 1, #ARGV[2]) ~= ARGV[2] then
  return {'held', stored or '0', string.match(holder, ' (.*)$') or '', tostring(left)}
end

-- The time takes part so that a store that was begun anew does not repeat what agents have seen.
local now = tonumber(redis.call('TIME')[1])
local epoch = string.format('%.0f', math.max(tonumber(stored) or 0, tonumber(ARGV[6]), now) + 1)
redis.call('SET', KEYS[1], ARGV[1])
redis.call('SET', KEYS[2], epoch)
redis.call('SET', KEYS[3], ARGV[2] .. ' ' .. ARGV[3], 'PX', ARGV[4])
return {'ok', epoch, unpack(aside)}
