// Bits some cycles later.
module unit_delay #(
  parameter int unsigned WIDTH = 1,
  parameter int unsigned CYCLES = 1
) (
  input  logic             clk,
  input  logic [WIDTH-1:0] in,
  output logic [WIDTH-1:0] out
);
  logic [WIDTH*CYCLES-1:0] line;

  always_ff @(posedge clk) line <= (line << WIDTH) | (WIDTH * CYCLES)'(in);
  assign out = line[WIDTH*CYCLES-1-:WIDTH];
endmodule
