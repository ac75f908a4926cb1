// A design with the memory behind it: it offers one request a cycle until all are taken, and prints the completions.
// The requests are those of examples/host.c, and so must be what is printed.
module testbench(input logic clk);
  import cptr_memory::*;

  localparam int unsigned REQUESTS = 2000;

  chandle memory;
  longint unsigned capacity, access_bytes, clock_ps, cycle, address, id, at, latency;
  int unsigned offered, taken, state, source;
  int is_write, status;

  task next_address();
    state = state * 32'd1664525 + 32'd1013904223;
    address = ({32'b0, state} >> 8) % (capacity / access_bytes) * access_bytes;
  endtask

  initial begin
    status = cptr_memory_open("DDR5-4800", "channels=2 stripe=256 priorities=0,1", memory, null, 0);
    if (status != OK) $fatal(1, "cannot open the memory: status %0d", status);
    status = cptr_memory_geometry(memory, capacity, access_bytes, clock_ps);
    state = 1;
    next_address();
  end

  always @(posedge clk) begin
    if (offered < REQUESTS) begin
      status = cptr_memory_offer(memory, address, (offered % 4 == 3) ? 1 : 0, offered % 2, id);
      if (status < 0) $fatal(1, "offer: status %0d", status);
      if (status == OK) begin
        offered = offered + 1;
        next_address();
      end
    end
    cycle = cycle + 1;
    status = cptr_memory_advance(memory, cycle);
    if (status != OK) $fatal(1, "advance: status %0d", status);
    status = cptr_memory_pop(memory, id, at, latency, source, is_write);
    while (status == OK) begin
      $display("%0d %0d %0d %0d", at, id, source, is_write);
      taken = taken + 1;
      status = cptr_memory_pop(memory, id, at, latency, source, is_write);
    end
    if (taken == REQUESTS) begin
      cptr_memory_close(memory);
      $finish;
    end
  end
endmodule
