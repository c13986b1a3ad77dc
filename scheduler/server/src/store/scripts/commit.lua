-- Apply a batch of writes, provided that the caller leads and every job is at the revision it builds on.
-- KEYS[1] leader epoch     KEYS[2] jobs (hash)  KEYS[3] agents (hash)
-- KEYS[4..] event streams  KEYS[#KEYS] quarantine
-- ARGV[1] caller's epoch   ARGV[2] longest length of a stream
-- ARGV[3] number of jobs   then for each: id, revision built on, record
--         number of agents then for each: id, record
--         then for each stream: number of events, then for each: cursor, record
-- Returns {'ok', keys set aside...}, {'fenced', epoch} or
--         {'conflict', job id, stored revision, expected revision}.
local epoch = redis.call('GET', KEYS[1]) or '0'
if epoch ~= ARGV[1] then return {'fenced', epoch} end

local first_job = 4
local jobs = tonumber(ARGV[3])
for i = first_job, first_job + 3 * (jobs - 1), 3 do
  local stored = redis.call('HGET', KEYS[2], ARGV[i])
  local revision = stored and string.match(stored, '^%d+') or '0'
  if revision ~= ARGV[i + 1] then return {'conflict', ARGV[i], revision, ARGV[i + 1]} end
end

-- A script that fails half-way stays half applied. So what could fail is looked at first: a stream's key
-- that holds something else is set aside; a hash that is none stops everything, and is set aside by `load`.
redis.call('HLEN', KEYS[3])
local last, aside = {}, {}
for stream = 4, #KEYS - 1 do
  local newest = redis.pcall('XREVRANGE', KEYS[stream], '+', '-', 'COUNT', 1)
  if newest.err then
    redis.call('RENAME', KEYS[stream], KEYS[#KEYS] .. ' ' .. KEYS[stream])
    aside[#aside + 1] = KEYS[stream]
    newest = {}
  end
  last[stream] = newest[1] and tonumber(string.match(newest[1][1], '^%d+')) or 0
end

-- From here on everything is applied.
for i = first_job, first_job + 3 * (jobs - 1), 3 do
  redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 2])
end
local at = first_job + 3 * jobs
local agents = tonumber(ARGV[at])
for i = at + 1, at + 2 * agents, 2 do
  redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1])
end
at = at + 1 + 2 * agents
for stream = 4, #KEYS - 1 do
  local events = tonumber(ARGV[at])
  for i = at + 1, at + 2 * events, 2 do
    if tonumber(ARGV[i]) > last[stream] then
      redis.call('XADD', KEYS[stream], 'MAXLEN', '~', ARGV[2], ARGV[i] .. '-0', 'e', ARGV[i + 1])
    end
  end
  at = at + 1 + 2 * events
end
return {'ok', unpack(aside)}
