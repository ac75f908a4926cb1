// floor(2^31 numerator / denominator) of a numerator below the denominator, in 31 steps of a bit; 2^31 of one that is
// not below it, as shares of a whole are at most 1. The denominator holds still.
module unit_quotient (
  input  logic        clk,
  input  logic        load,
  input  logic        step,
  input  logic [31:0] numerator,
  input  logic [31:0] denominator,
  output logic [31:0] quotient
);
  logic [31:0] rest;
  logic whole;
  wire [32:0] doubled = {rest, 1'b0};
  wire [32:0] difference = doubled - {1'b0, denominator};
  wire fits = doubled >= {1'b0, denominator};

  always_ff @(posedge clk) begin
    if (load) begin
      rest <= numerator;
      whole <= numerator >= denominator;
      quotient <= '0;
    end else if (step) begin
      rest <= fits ? difference[31:0] : doubled[31:0];
      quotient <= whole ? 32'h8000_0000 : {1'b0, quotient[29:0], fits};
    end
  end
endmodule
