// The memory engine in SystemVerilog: functions of include/cptr_memory.h through DPI. Link with libcptr_memory.
package cptr_memory;
  // Statuses: 0 done, above 0 nothing or not now, below 0 an error; see the header.
  localparam int OK = 0;
  localparam int NONE = 1;
  localparam int FULL = 2;
  localparam int NEXT_CYCLE = 3;
  localparam int UNREAD = 4;

  // The message is for C: pass null and 0, and look at the status.
  import "DPI-C" function int cptr_memory_open(input string device, input string options, output chandle memory,
                                               input chandle message, input longint unsigned size);
  import "DPI-C" function void cptr_memory_close(input chandle memory);
  import "DPI-C" function int cptr_memory_offer(input chandle memory, input longint unsigned address,
                                                input int is_write, input int unsigned source,
                                                output longint unsigned id);
  import "DPI-C" function int cptr_memory_advance(input chandle memory, input longint unsigned cycle);
  import "DPI-C" function int cptr_memory_next_event(input chandle memory, output longint unsigned cycle);
  import "DPI-C" function int cptr_memory_pop(input chandle memory, output longint unsigned id,
                                              output longint unsigned cycle, output longint unsigned latency,
                                              output int unsigned source, output int is_write);
  import "DPI-C" function int cptr_memory_completes(input chandle memory, input longint unsigned id,
                                                    output longint unsigned cycle);
  import "DPI-C" function int cptr_memory_geometry(input chandle memory, output longint unsigned capacity,
                                                   output longint unsigned access_bytes,
                                                   output longint unsigned clock_ps);
endpackage
