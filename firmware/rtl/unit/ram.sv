// A memory with one port to read and one to write, as compilers of memories make them: a word is there the cycle after
// it was asked for, and stays. Nobody reads a word in the cycle that writes it.
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
  logic [WIDTH-1:0] words[0:DEPTH-1];

  always_ff @(posedge clk) begin
    if (write) words[write_address] <= write_data;
    if (read) read_data <= words[read_address];
  end
endmodule
