-- Schema 2 to 3: what was submitted is stored apart from where a job stands. Each record is copied to where
-- the first is read from; as a record of schema 2 holds both, it stays readable as the second, and is
-- written without the first when the job next moves. A build of schema 2 must not lead any more.
-- KEYS[1] schema  KEYS[2] leader epoch  KEYS[3] leader  KEYS[4] jobs  KEYS[5] specs
-- Returns {'ok'} or, when the store is not of schema 2 (any more), {'schema', found}.
local schema = redis.call('GET', KEYS[1]) or ''
if schema ~= '2' then return {'schema', schema} end
local kind = redis.call('TYPE', KEYS[4]).ok
local cursor = '0'
repeat
  -- What is no hash is quarantined when it is read.
  local page = kind == 'hash' and redis.call('HSCAN', KEYS[4], cursor, 'COUNT', 1000) or {'0', {}}
  cursor = page[1]
  for i = 1, #page[2], 2 do
    local record = string.match(page[2][i + 1], '^%d+ (.*)$')
    if record then redis.call('HSET', KEYS[5], page[2][i], record) end
  end
until cursor == '0'
redis.call('DEL', KEYS[3])
redis.call('INCR', KEYS[2])
redis.call('SET', KEYS[1], '3')
return {'ok'}
