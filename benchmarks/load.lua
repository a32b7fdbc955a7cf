-- One kind of work, named in the first argument; prints its result as one line of JSON.
local targets = {}

local function get(path)
  return wrk.format("GET", path)
end

local function post(path, body)
  return wrk.format("POST", path, { ["Content-Type"] = "application/json" }, body)
end

function init(arguments)
  local work, rows = arguments[1], tonumber(arguments[2])
  if work == "W0" then
    targets = { get("/livez") }
  elseif work == "W1" then
    for id = 1, rows do
      targets[id] = get("/items/" .. id)
    end
  elseif work == "W2" then
    targets = { get("/items?limit=50") }
  elseif work == "W3" then
    targets = { post("/items", '{"name": "a new item", "quantity": 3, "price": 12.5}') }
  end
  math.randomseed(rows)
end

function request()
  return targets[math.random(#targets)]
end

function done(summary, latency, requests)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format(
    '{"requests": %d, "seconds": %.6f, "failed": %d, "p50": %.3f, "p99": %.3f}\n',
    summary.requests, summary.duration / 1e6, failed,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000
  ))
end
