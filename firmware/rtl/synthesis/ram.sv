// `unit_ram` as synthesis for cells sees it: a memory is made by another compiler and counted by its bits, so that this
// has its ports only, between flip-flops that are not counted. Paths to and from memories end and begin at these: the
// time that a memory itself takes is not in them.
(* keep_hierarchy *)
module unit_ram #(
  parameter int unsigned WIDTH = 32,
  parameter int unsigned DEPTH = 64,
  parameter int unsigned ADDRESS = (DEPTH > 1) ? $clog2(DEPTH) : 1
) (
  input  logic               clk,
  input  logic               read,
  input  logic [ADDRESS-1:0] read_address,
  output logic [WIDTH-1:0]   read_data,
  input  logic               write,
  input  logic [ADDRESS-1:0] write_address,
  input  logic [WIDTH-1:0]   write_data
);
  (* keep *) logic [WIDTH+2*ADDRESS+1:0] asked;
  (* keep *) logic [WIDTH-1:0] word;
  always_ff @(posedge clk) asked <= {read, read_address, write, write_address, write_data};
  always_ff @(posedge clk) word <= word;
  assign read_data = word;
endmodule
