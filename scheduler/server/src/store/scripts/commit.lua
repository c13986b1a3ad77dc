-- Apply a batch of writes, provided that the caller leads and every job is at the revision it builds on.
-- KEYS[1] leader epoch    KEYS[2] jobs     KEYS[3] specs    KEYS[4] pulses  KEYS[5] agents
-- KEYS[6] users           KEYS[7] batches  KEYS[8] forgotten  KEYS[9] learned (hashes)
-- KEYS[10] users with webhooks (hash)    KEYS[11] notices (stream)
-- KEYS[12..] event streams, to be appended to or removed    KEYS[#KEYS] quarantine
-- ARGV[1] caller's epoch  ARGV[2] longest length of a stream  ARGV[3] of the notices
-- ARGV[4] number of jobs      then for each: id, revision built on, record
--         number of fields    then for each: place of its hash in KEYS, field, value
--         number of removals  then for each: place of its hash in KEYS, field
--         number of notices   then for each: user, record; kept where the user has webhooks
--         then for each stream: number of events, then for each: cursor, record; or 'remove'
-- Returns {'ok', keys quarantined...}, {'fenced', epoch} or
--         {'conflict', job id, stored revision, expected revision}.
local epoch = redis.call('GET', KEYS[1]) or '0'
if epoch ~= ARGV[1] then return {'fenced', epoch} end

local first_job = 5
local jobs = tonumber(ARGV[4])
for i = first_job, first_job + 3 * (jobs - 1), 3 do
  local stored = redis.call('HGET', KEYS[2], ARGV[i])
  local revision = stored and string.match(stored, '^%d+') or '0'
  if revision ~= ARGV[i + 1] then return {'conflict', ARGV[i], revision, ARGV[i + 1]} end
end

-- A script that fails half-way stays half applied. So what could fail is looked at first: a hash that is
-- none stops everything, and is quarantined by `load`.
for hash = 2, 9 do redis.call('HLEN', KEYS[hash]) end

-- From here on everything is applied.
for i = first_job, first_job + 3 * (jobs - 1), 3 do
  redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 2])
end
local at = first_job + 3 * jobs
local fields = tonumber(ARGV[at])
for i = at + 1, at + 3 * fields, 3 do
  redis.call('HSET', KEYS[tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 2])
end
at = at + 1 + 3 * fields
local removals = tonumber(ARGV[at])
for i = at + 1, at + 2 * removals, 2 do
  redis.call('HDEL', KEYS[tonumber(ARGV[i])], ARGV[i + 1])
end
at = at + 1 + 2 * removals

local aside = {}
-- An event that is there already is refused by the stream itself. A key that holds something else is set
-- aside.
local function append(key, longest, id, field, record)
  local answer = redis.pcall('XADD', key, 'MAXLEN', '~', longest, id, field, record)
  if type(answer) == 'table' and answer.err and string.find(answer.err, 'WRONGTYPE') then
    redis.call('RENAME', key, KEYS[#KEYS] .. ' ' .. key)
    aside[#aside + 1] = key
    redis.call('XADD', key, id, field, record)
  end
end
local notices = tonumber(ARGV[at])
for i = at + 1, at + 2 * notices, 2 do
  if redis.pcall('HEXISTS', KEYS[10], ARGV[i]) == 1 then append(KEYS[11], ARGV[3], '*', 'n', ARGV[i + 1]) end
end
at = at + 1 + 2 * notices
for stream = 12, #KEYS - 1 do
  if ARGV[at] == 'remove' then
    redis.call('DEL', KEYS[stream])
    at = at + 1
  else
    local events = tonumber(ARGV[at])
    for i = at + 1, at + 2 * events, 2 do append(KEYS[stream], ARGV[2], ARGV[i] .. '-0', 'e', ARGV[i + 1]) end
    at = at + 1 + 2 * events
  end
end
return {'ok', unpack(aside)}
